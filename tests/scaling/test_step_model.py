"""A whole step: its parts, what bounds it, and what is named as the bottleneck."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.links import Link, Topology
from scaling.overlap import Gradient, Packing
from scaling.step_model import Workload, bottleneck, predict_step

WORK = Workload(
    gradients=tuple(Gradient(4e6, (i + 1) / 25) for i in range(25)),
    packing=Packing("buckets", 25e6),
    compute_s=0.3,
    update_s=0.01,
)
TOPOLOGY = Topology(Link(5e-6, 1e11), Link(1e-5, 1e10), 8)


def test_one_worker_only_computes() -> None:
    step = predict_step(replace(WORK, jitter_s=0.1), 1, TOPOLOGY)
    assert (step.step_s, step.exposed_s, step.straggling_s, step.algorithm) == (0.31, 0, 0, "none")


def test_twice_the_samples_are_twice_the_computing_and_its_spread_alone() -> None:
    double = replace(WORK, jitter_s=0.02).scaled(2.0)
    assert (double.compute_s, double.jitter_s, double.update_s, double.alone_s) == (0.6, 0.04, 0.01, 0.61)
    assert double.gradients == WORK.gradients


def test_by_hand() -> None:
    # 100 MB at once over a ring of two at 1 GB/s: 0.1 s and two latencies, behind 0.3 s; then update and waiting.
    work = replace(WORK, packing=Packing("after"), jitter_s=0.02)
    step = predict_step(work, 2, Topology(Link(1e-3, 1e9)))
    assert step.exposed_s == step.communication_s == pytest.approx(0.102)
    assert step.straggling_s == pytest.approx(0.02 * 0.5895, rel=1e-3)
    assert step.step_s == pytest.approx(0.3 + 0.102 + 0.01 + step.straggling_s)


def test_only_the_last_micro_batch_hides_anything() -> None:
    slow = Topology(Link(1e-6, 1e9))
    once, often = (predict_step(replace(WORK, micro_batches=count), 2, slow) for count in (1, 10))
    assert once.exposed_s < 0.03
    # 0.02 s of backward pass remain: 4 MB go at once, the other 96 MB from the eighth gradient of 25 on, in 96 ms.
    assert often.exposed_s == pytest.approx(0.02 * 8 / 25 + 0.096 - 0.02, rel=1e-3)


@given(
    compute_s=st.floats(0.001, 1),
    workers=st.integers(2, 512),
    factor=st.floats(1, 1000),
    level=st.sampled_from(["in_node", "between_nodes"]),
    kind=st.sampled_from(["buckets", "after"]),
    bandwidth=st.floats(1e8, 1e11),
)
def test_never_faster_than_its_parts_nor_slower_for_bandwidth(
    compute_s, workers, factor, level, kind, bandwidth
) -> None:
    work = replace(WORK, compute_s=compute_s, packing=Packing(kind))
    topology = replace(TOPOLOGY, between_nodes=Link(1e-5, bandwidth))
    step = predict_step(work, workers, topology)
    assert step.step_s >= work.alone_s
    assert step.step_s >= compute_s / 3 + step.communication_s - 1e-12  # nothing travels in the forward pass
    assert predict_step(work, workers, topology.faster(level, factor)).step_s <= step.step_s + 1e-12
    if kind == "after":  # one huge bucket overlaps with nothing
        assert step.exposed_s == pytest.approx(step.communication_s)


@pytest.mark.parametrize(
    ("work", "topology", "named"),
    [
        (WORK, TOPOLOGY, "computing"),
        (replace(WORK, jitter_s=0.2), TOPOLOGY, "waiting for the slowest"),
        (WORK, replace(TOPOLOGY, between_nodes=Link(1e-5, 1e8)), "bandwidth between nodes"),
        (WORK, replace(TOPOLOGY, between_nodes=Link(0.1, 1e10)), "latency between nodes"),
        (WORK, Topology(Link(1e-6, 1e8)), "bandwidth in the node"),
        (WORK, Topology(Link(0.1, 1e12)), "latency in the node"),
    ],
)
def test_the_bottleneck_is_named(work: Workload, topology: Topology, named: str) -> None:
    assert bottleneck(work, 64, topology) == named
