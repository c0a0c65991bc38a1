"""A start that is made again after a failed one: by torchrun --max-restarts, or by launchers.train for the others.

The command is the same as at first, so the script finds out here that it is to go on from what the earlier start made.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped] # its stubs are a package of their own

from telemetry.run_log import read_json, read_status
from training.advice import PEER, advice
from training.problems import EXIT_FAILED, EXIT_STOPPED_EARLY, NotRestarted

RESTART = "TRIMARAN_RESTART"
"""Set by launchers.train on a command that it starts again: "1 of 3"."""
CLOCK_S = 1.0
"""By how much the kernel's time of a process' start may be off."""


def number(environment: Mapping[str, str] = os.environ) -> str | None:
    """ "1 of 3" in the first restart of three; None in a first start."""
    if told := environment.get(RESTART):
        return told
    count = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    return None if count == "0" else f"{count} of {environment.get('TORCHELASTIC_MAX_RESTARTS', '?')}"


def is_ours(run_dir: Path, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a restart, and `run_dir` was made or gone on with by an earlier start of the same command.

    launchers.train looked before its first start. A bare torchrun restarts even what refused to start because the
    directory was another run's; so the last segment must have begun after torchrun, our parent.
    """
    if number(environment) is None:
        return False
    started_s = _last_start_s(run_dir)
    if RESTART in environment or started_s is None:
        return started_s is not None
    return started_s >= psutil.Process(os.getppid()).create_time() - CLOCK_S


def check(run_dir: Path, environment: Mapping[str, str] = os.environ) -> None:
    """Raises NotRestarted where torchrun restarts what was not to be: an agreed stop, a failure that would come again.

    torchrun knows only that a worker ended with another code than 0.
    """
    if RESTART in environment or not is_ours(run_dir, environment):
        return
    status = read_status(run_dir)
    if status.get("state") == "preempted":
        raise NotRestarted(
            f"{run_dir}: stopped at step {status['step']}, and not restarted; go on with --resume",
            EXIT_STOPPED_EARLY,
        )
    if status.get("would_repeat"):
        raise NotRestarted(f"not restarted, it would fail again: {status['reason']}", EXIT_FAILED)


def line(run_dir: Path, step: int, environment: Mapping[str, str] = os.environ) -> str | None:
    """What rank 0 tells of a restart by torchrun (launchers.train tells of its own): from which step, and why."""
    if RESTART in environment or not is_ours(run_dir, environment):
        return None
    return f"restart {number(environment)} from step {step}: {why(run_dir)}"


def why(run_dir: Path) -> str:
    """What the earlier start left of its end: the ranks without a word, which were killed, then the first failure."""
    last = _last_segment(run_dir)
    since_s = last.get("started_unix_s", 0.0)
    notes = {path: path.stat().st_mtime for path in run_dir.glob("failure-*.txt")}
    notes = {path: written_s for path, written_s in notes.items() if written_s >= since_s}
    silent = [rank for rank in range(last.get("workers", 0)) if run_dir / f"failure-{rank}.txt" not in notes]
    words = []
    if silent:
        shown = ", ".join(map(str, silent[:8])) + ("…" if len(silent) > 8 else "")
        words.append(f"rank{'s' * (len(silent) > 1)} {shown} left no word")
    first = min(notes, key=notes.__getitem__, default=None)
    told = "" if first is None else first.read_text().partition("\n")[0]
    if told and not (silent and advice(told) == PEER):  # of a rank that is gone we said so
        words.append(told)
    return "; ".join(words)


def _last_start_s(run_dir: Path) -> float | None:
    started_s = _last_segment(run_dir).get("started_unix_s")
    return started_s if isinstance(started_s, float) else None


def _last_segment(run_dir: Path) -> dict[str, Any]:
    try:
        last = read_json(run_dir / "run.json")["segments"][-1]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return last if isinstance(last, dict) else {}
