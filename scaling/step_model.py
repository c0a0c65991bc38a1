"""The time of one training step on any number of workers, and what it is made of.

    step = forward + max(end of the backward pass, end of the last all-reduce) + update + waiting for the slowest

The exchange happens once a step, behind the last micro-batch.
"""

from dataclasses import dataclass, replace

from scaling.allreduce import all_reduce_s, fastest
from scaling.links import Topology
from scaling.overlap import BACKWARD_SHARE, Gradient, Packing, exchange, expected_maximum

NEGLIGIBLE = 0.01
"""A loss below this part of the step is no bottleneck."""


@dataclass(frozen=True)
class Workload:
    """What one worker does in a step, without the others.

    `compute_s`: forward and backward of all its micro-batches. `jitter_s`: standard deviation of that from worker to
    worker and step to step.
    """

    gradients: tuple[Gradient, ...]
    packing: Packing
    compute_s: float
    update_s: float = 0.0
    jitter_s: float = 0.0
    micro_batches: float = 1

    @property
    def alone_s(self) -> float:
        """A step of one worker."""
        return self.compute_s + self.update_s

    def scaled(self, factor: float) -> "Workload":
        """With `factor` times the samples: computing and its spread grow alike, gradients and update do not."""
        return replace(self, compute_s=self.compute_s * factor, jitter_s=self.jitter_s * factor)


@dataclass(frozen=True)
class Step:
    """A predicted step and its parts, in seconds. `communication_s` is all of it, `exposed_s` what was not hidden."""

    step_s: float
    alone_s: float
    communication_s: float
    exposed_s: float
    straggling_s: float
    num_packs: int
    algorithm: str


def predict_step(work: Workload, workers: int, topology: Topology) -> Step:
    """One step of `workers` workers, each of them with `work`.

    Raises ValueError where they fill several nodes and nothing is known of the link between them.
    """

    def cost_s(num_bytes: float) -> float:
        return all_reduce_s(num_bytes, workers, topology)

    backward_s = work.compute_s / work.micro_batches * BACKWARD_SHARE
    sent = exchange(work.gradients, work.packing, backward_s, cost_s)
    exposed_s = max(0.0, sent.end_s - backward_s)
    straggling_s = work.jitter_s * expected_maximum(workers)
    return Step(
        step_s=work.alone_s + exposed_s + straggling_s,
        alone_s=work.alone_s,
        communication_s=sent.busy_s,
        exposed_s=exposed_s,
        straggling_s=straggling_s,
        num_packs=sent.num_packs,
        algorithm=fastest(sent.largest_bytes, workers, topology)[0],
    )


def bottleneck(work: Workload, workers: int, topology: Topology) -> str:
    """What costs most of the time that is not computing: the part that, made ideal, would save most."""
    now = predict_step(work, workers, topology)
    saved_s = {"waiting for the slowest": now.straggling_s}
    levels = {"in_node": "in the node"}
    if topology.nodes(workers) > 1:
        levels["between_nodes"] = "between nodes"
    for level, where in levels.items():
        for what, ideal in (
            ("bandwidth", topology.faster(level, 1e9)),
            ("latency", topology.without_latency(level)),
        ):
            saved_s[f"{what} {where}"] = now.step_s - predict_step(work, workers, ideal).step_s
    worst = max(saved_s, key=lambda name: saved_s[name])
    return worst if saved_s[worst] > NEGLIGIBLE * now.step_s else "computing"
