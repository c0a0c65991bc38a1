"""Where a step of N workers goes, by one method for every strategy.

Two kinds of runs are compared: with gradient exchange, and the same ranks without it, where none waits for another.

    data         waiting for batches: the longest of the ranks, with exchange (all wait for the last)
    compute      the median rank's step without exchange, less its own waiting for data
    stragglers   the slowest rank's compute less the median rank's, without exchange
    exchange     what was not hidden: the step with exchange less the slowest rank's step without
    rest         the step less all of these, with its share: the parts add up, or it is seen by how much they do not

All are taken a window at a time over the ranks, then as medians (scaling/statistics.py). The slowest rank of a window
is the one with the longest step: a straggler that computes while another waits for data costs nothing. Of an even
number of ranks the median is the faster one in the middle, so of two ranks the slower one is the straggler.

The rest is above 0 where ranks wait longer for data without exchange, because their loader has less time; it is below
0 where one rank waits for data while another computes. A window is a mean over steps, so stragglers that change within
it are missed and count as exchange.

`lost_s` is the same against the ideal step, the base's (weak scaling) or an N-th of it (strong scaling): compute's loss
is what a worker loses to shared caches, memory bandwidth, cores or a smaller batch before any communication.
"""

from typing import Any

import numpy as np

from scaling.cases import Case, sampled_step, usable
from scaling.records import Record
from scaling.statistics import estimate, generator, sampled_medians

PARTS = ("data", "compute", "stragglers", "exchange", "rest")


def decompose(case: Case) -> dict[str, Any]:
    """The parts of a case's step for analysis.json.

    {"reason", "step_s", "ideal_step_s", "loss_s", "parts": {part: {"seconds", "share", "lost_s"}}}: estimates, null
    where unknown. Without runs to compare there are no parts, and `reason` says why. A strategy that drives all its
    workers in one process has no stragglers that could be told apart: null, and its compute is the slowest worker's.
    """
    with_exchange, alone, base = usable(case.runs), usable(case.alone), usable(case.base)
    if case.oversubscribed:
        return {"reason": case.why_not_compared}
    if not with_exchange or not alone:
        lacking = "with" if not with_exchange else "without"
        return {"reason": f"found no steady run {lacking} gradient exchange, expected at least one"}
    seconds = _parts_s(with_exchange, alone)
    step_s = seconds.pop("step")
    repetitions = min(len(with_exchange), len(alone))
    ideal = _ideal_s(case, base) if base else {}
    borne_by = min(repetitions, len(base))

    def part(name: str, sampled: np.ndarray) -> dict[str, Any]:
        return {
            "seconds": _told(sampled, repetitions),
            "share": _told(sampled / step_s, repetitions),
            "lost_s": _told(sampled - ideal.get(name, 0.0), borne_by) if ideal else None,
        }

    return {
        "reason": None,
        "step_s": _told(step_s, repetitions),
        "ideal_step_s": _told(ideal["step"], len(base)) if ideal else None,
        "loss_s": _told(step_s - ideal["step"], borne_by) if ideal else None,
        "parts": {name: part(name, seconds[name]) if name in seconds else None for name in PARTS},
    }


def _told(sampled: np.ndarray, repetitions: int) -> dict[str, Any]:
    return estimate(sampled, repetitions).as_json()


def _parts_s(with_exchange: tuple[Record, ...], alone: tuple[Record, ...]) -> dict[str, np.ndarray]:
    """The step and its parts, sampled; no "stragglers" where one row stands for several workers."""
    step, data = sampled_step(with_exchange)
    alone_step, compute, stragglers = sampled_medians(
        [_alone_columns(run) for run in alone], generator(*(run.id for run in alone))
    )
    parts = {"data": data, "compute": compute, "stragglers": stragglers, "exchange": step - alone_step}
    if any(len(run.step_time_s) < run.workers for run in alone):
        del parts["stragglers"]
    return {"step": step, **parts, "rest": step - np.sum(list(parts.values()), axis=0)}


def _alone_columns(run: Record) -> np.ndarray:
    """[windows, 3]: the slowest rank's step, the median rank's compute, what the slowest computes beyond that."""
    step, compute = run.steady_step_time_s, run.steady_step_time_s - run.steady_data_time_s
    slowest = step.argmax(axis=0)[None]
    median = np.sort(compute, axis=0)[(len(compute) - 1) // 2]
    beyond = np.take_along_axis(compute, slowest, axis=0)[0] - median
    return np.stack([step.max(axis=0), median, beyond], axis=1)


def _ideal_s(case: Case, base: tuple[Record, ...]) -> dict[str, np.ndarray]:
    """What each worker would take if nothing were lost: step, data and compute, sampled."""
    step, data = sampled_step(base) / (case.workers if case.scaling == "strong" else 1)
    return {"step": step, "data": data, "compute": step - data}
