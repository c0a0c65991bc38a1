"""From what a study measured of a case to the step time on other numbers of workers, with an interval.

The interval covers two things: the spread of the repetitions (bootstrap: Efron 1979) and how far the model, with its
links, misses the steps that were measured. It does not cover what the model leaves out on counts far from those.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median, stdev

import numpy as np

from scaling.links import FittedLink, Link, Topology, fit_link
from scaling.measured import Case
from scaling.overlap import FIRST_BUCKET_BYTES, MIB, Gradient, Packing, gradients_in_order
from scaling.step_model import Step, Workload, bottleneck, predict_step
from training.communication import DDP_BUCKET_MIB, HOROVOD_FUSION_MIB
from training.problems import UsageError

DRAWS = 200
COVERAGE = 0.95
HOROVOD_CYCLE_S = 1e-3
"""Horovod's default, HOROVOD_CYCLE_TIME."""
COMPRESSED_BYTES = 2
"""Of a number in bf16 or fp16."""


@dataclass(frozen=True)
class GivenLinks:
    """What the command line says of the links; it wins over what was measured."""

    in_node: Link | None = None
    between_nodes: Link | None = None
    workers_per_node: int | None = None


@dataclass(frozen=True)
class Model:
    """A case made ready to predict.

    `base_s`: one worker's step with its samples, which efficiency is measured against; measured where that was done.
    `residual`: how far the model misses the measured steps of several workers; None where there are none.
    """

    case: Case
    work: Workload
    base_s: float
    topology: Topology
    fitted: Mapping[str, FittedLink]
    residual: float | None

    def work_of(self, workers: int) -> Workload:
        """One worker's step where `workers` share the work."""
        return self.work.scaled(self.case.share(workers))

    def step(self, workers: int) -> Step:
        """One predicted step."""
        return predict_step(self.work_of(workers), workers, self.topology)

    def efficiency(self, workers: int) -> float:
        """Throughput over that of as many workers, each as fast as the base: 1 is linear."""
        per_sample_s = self.base_s / self.case.samples(1)
        return per_sample_s * self.case.samples(workers) / (workers * self.step(workers).step_s)


@dataclass(frozen=True)
class Prediction:
    """One count: the step with its parts, and 95 % intervals (low, high)."""

    workers: int
    step: Step
    step_interval_s: tuple[float, float]
    efficiency: float
    efficiency_interval: tuple[float, float]
    samples_per_s: float
    bottleneck: str


@dataclass(frozen=True)
class WhatIf:
    """One change and what it brings at a count of workers."""

    change: str
    workers: int
    step_s: float
    efficiency: float
    samples_per_s: float


def packing_of(case: Case) -> Packing:
    """How the case's strategy puts gradients together, in bytes that travel.

    tf-mirrored combines them after the backward pass unless it is told a size, and so do both strategies of TensorFlow
    where XLA or a loop over micro-batches makes one piece of the backward pass. DDP fills its buckets before it
    compresses them, the others afterwards.
    """
    told = case.recipe.performance.bucket_mib
    if case.strategy == "torch-ddp":
        shrunk = MIB * travelling_bytes(case) / gradient_bytes(case)
        if told:
            return Packing("buckets", told * shrunk, first_bytes=told * shrunk)
        return Packing("buckets", DDP_BUCKET_MIB * shrunk, first_bytes=FIRST_BUCKET_BYTES / MIB * shrunk)
    in_one_piece = case.recipe.performance.xla or case.accumulation > 1
    if case.strategy == "tf-mirrored":
        if told and not in_one_piece:
            return Packing("buckets", told * MIB, first_bytes=told * MIB)
        return Packing("after")
    if case.strategy == "tf-horovod" and in_one_piece:
        return Packing("after")
    return Packing("fusion", (told or HOROVOD_FUSION_MIB) * MIB, HOROVOD_CYCLE_S)


def gradient_bytes(case: Case) -> int:
    """Of a number in a gradient. Under mixed precision they are float32, as the master weights are."""
    return 8 if case.recipe.precision == "float64" else 4


def travelling_bytes(case: Case) -> int:
    """The same on its way."""
    return (
        gradient_bytes(case) if case.recipe.performance.gradient_compression == "none" else COMPRESSED_BYTES
    )


def gradients_of(case: Case) -> tuple[Gradient, ...]:
    """The gradients of the case's model, in bytes that travel."""
    return gradients_in_order(case.recipe.model, travelling_bytes(case))


def jitter_of(case: Case, compute_s: Sequence[float]) -> float:
    """Standard deviation of a worker's step: the measured one, else that of the repetitions, which is a lower bound."""
    if case.jitter_s is not None:
        return case.jitter_s
    return stdev(compute_s) if len(compute_s) > 1 else 0.0


def build_model(case: Case, given: GivenLinks, start: Model | None = None) -> Model:
    """Fit what is not given and not measured. `start`, the model of much the same case, makes the fit faster.

    Raises UsageError where a link can neither be looked up nor fitted.
    """
    compute_s, update_s = median(case.compute_s), case.update_s or 0.0
    work = Workload(
        gradients=start.work.gradients if start else gradients_of(case),
        packing=packing_of(case),
        compute_s=compute_s - update_s,
        update_s=update_s,
        jitter_s=jitter_of(case, case.compute_s),
        micro_batches=case.accumulation,
    )
    measured_s = {workers: median(times) for workers, times in case.steps_s.items() if workers > 1}
    per_node = given.workers_per_node or case.workers_per_node
    fitted: dict[str, FittedLink] = {}

    def fit(level: str, counts: dict[int, float], topology_with: Callable[[Link], Topology]) -> Link:
        if not counts:
            raise UsageError(_no_link(case, level))
        fitted[level] = fit_link(
            lambda link, n: predict_step(work.scaled(case.share(n)), n, topology_with(link)).step_s,
            counts,
            start.fitted[level].link if start else None,
        )
        return fitted[level].link

    inside = {n: seconds for n, seconds in measured_s.items() if per_node is None or n <= per_node}
    in_node = given.in_node or case.in_node or fit("in_node", inside, Topology)
    between = given.between_nodes or case.between_nodes
    across = {n: seconds for n, seconds in measured_s.items() if n not in inside}
    if between is None and across:
        between = fit("between_nodes", across, lambda link: Topology(in_node, link, per_node))
    base_s = median(case.steps_s[1]) if 1 in case.steps_s else work.scaled(case.share(1)).alone_s
    model = Model(case, work, base_s, Topology(in_node, between, per_node), fitted, None)
    misses = [model.step(n).step_s / seconds - 1 for n, seconds in measured_s.items()]
    if not misses:
        return model
    return replace(model, residual=math.sqrt(sum(miss * miss for miss in misses) / len(misses)))


def _no_link(case: Case, level: str) -> str:
    flag = level.replace("_", "-")
    where = "in a node" if level == "in_node" else "between nodes"
    return (
        f"{case.label}: the link {where} was not measured, and no measured steps can tell it; "
        f"give --{flag}-gb-s (and --{flag}-latency-us)"
    )


def check_counts(model: Model, counts: Sequence[int]) -> list[int]:
    """The counts that the case can be shared by. Raises UsageError where one needs a link that nobody knows."""
    if model.topology.between_nodes is None and any(model.topology.nodes(n) > 1 for n in counts):
        raise UsageError(_no_link(model.case, "between_nodes"))
    return [n for n in counts if model.case.samples(n) >= n]


def predict(model: Model, given: GivenLinks, counts: Sequence[int], seed: int = 0) -> list[Prediction]:
    """Step time and efficiency at each count, with intervals from `DRAWS` bootstrap draws."""
    rng = np.random.default_rng(seed)
    steps_s: dict[int, list[float]] = {n: [] for n in counts}
    efficiencies: dict[int, list[float]] = {n: [] for n in counts}
    for _ in range(DRAWS):
        drawn = build_model(_resampled(model.case, rng), given, model)
        miss = math.exp((model.residual or 0.0) * rng.standard_normal())
        for n in counts:
            steps_s[n].append(drawn.step(n).step_s * miss)
            efficiencies[n].append(drawn.efficiency(n) / miss)
    return [
        Prediction(
            workers=n,
            step=model.step(n),
            step_interval_s=_interval(steps_s[n], model.step(n).step_s),
            efficiency=model.efficiency(n),
            efficiency_interval=_interval(efficiencies[n], model.efficiency(n)),
            samples_per_s=model.case.samples(n) / model.step(n).step_s,
            bottleneck=bottleneck(model.work_of(n), n, model.topology),
        )
        for n in counts
    ]


def _resampled(case: Case, rng: np.random.Generator) -> Case:
    """The case with each list of repetitions drawn from itself; the spread stays that of all of them."""

    def draw(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(rng.choice(values, size=len(values)).tolist())

    return replace(
        case,
        compute_s=draw(case.compute_s),
        jitter_s=jitter_of(case, case.compute_s),
        steps_s={n: draw(values) for n, values in case.steps_s.items()},
    )


def _interval(draws: Sequence[float], point: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2]).tolist()
    return min(low, point), max(high, point)


def what_ifs(model: Model, workers: int) -> list[WhatIf]:
    """What other buckets, a faster link and a larger batch would bring."""
    changes: list[tuple[str, Model]] = [("as it is", model)]
    packing = model.work.packing
    if packing.kind != "after":
        shrinks = model.case.strategy == "torch-ddp"  # after it has filled its buckets
        ratio = gradient_bytes(model.case) / travelling_bytes(model.case) if shrinks else 1.0
        for factor in (0.25, 4.0):
            cap_bytes = packing.cap_bytes * factor
            changed = replace(packing, cap_bytes=cap_bytes, first_bytes=cap_bytes)
            size = f"{cap_bytes * ratio / MIB:g} MiB"
            changes.append((f"{packing.kind} of {size}", _with_work(model, packing=changed)))
    level = _limiting_level(model, workers)
    for factor in (2.0, 10.0):
        changes.append((f"link {level.replace('_', ' ')} x{factor:g}", _with_link(model, level, factor)))
    changes.append(("batch x2", _twice_the_batch(model)))
    return [
        WhatIf(
            name,
            workers,
            changed.step(workers).step_s,
            changed.efficiency(workers),
            changed.case.samples(workers) / changed.step(workers).step_s,
        )
        for name, changed in changes
    ]


def _limiting_level(model: Model, workers: int) -> str:
    """Where more bandwidth helps more."""
    levels = ["between_nodes", "in_node"] if model.topology.nodes(workers) > 1 else ["in_node"]
    return min(levels, key=lambda level: _with_link(model, level, 10.0).step(workers).step_s)


def _with_link(model: Model, level: str, factor: float) -> Model:
    return replace(model, topology=model.topology.faster(level, factor))


def _twice_the_batch(model: Model) -> Model:
    return replace(
        model,
        case=replace(model.case, global_batch=2 * model.case.global_batch),
        work=model.work.scaled(2.0),
        base_s=2 * model.base_s - model.work.update_s,
    )


def _with_work(model: Model, packing: Packing) -> Model:
    return replace(model, work=replace(model.work, packing=packing))
