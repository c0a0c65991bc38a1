"""The cost of an all-reduce: by hand for few workers, and in the limits that decide between algorithms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.allreduce import all_reduce_s, fastest, hierarchical_s, ring_s, tree_s
from scaling.links import Link, Topology

LINK = Link(latency_s=1e-5, bytes_per_s=1e10)
TWO_LEVELS = Topology(Link(2e-6, 1e11), Link(1e-5, 2e10), workers_per_node=8)


def test_by_hand() -> None:
    # 4 workers, 1 MB: 6 rounds of 10 us + 25 us; the tree 2 x 2 levels of 10 us and 200 us of bytes.
    assert ring_s(1e6, 4, LINK) == pytest.approx(6 * (10e-6 + 25e-6))
    assert tree_s(1e6, 4, LINK) == pytest.approx(4 * 10e-6 + 200e-6)
    # 2 nodes of 8, 8 MB: 14 rounds of 2 us + 1 MB at 100 GB/s in the node, 2 rounds of 10 us + 4 MB at 20 GB/s between.
    assert hierarchical_s(8e6, 16, TWO_LEVELS) == pytest.approx(14 * (2e-6 + 1e-5) + 2 * (1e-5 + 2e-4))


@given(num_bytes=st.floats(0, 1e12), workers_per_node=st.integers(1, 16) | st.none())
def test_one_worker_pays_nothing(num_bytes: float, workers_per_node: int | None) -> None:
    topology = Topology(LINK, LINK, workers_per_node)
    assert ring_s(num_bytes, 1, LINK) == tree_s(num_bytes, 1, LINK) == 0
    assert all_reduce_s(num_bytes, 1, topology) == 0


def test_large_messages_move_twice_and_small_ones_climb_a_tree() -> None:
    assert ring_s(1e15, 1000, LINK) == pytest.approx(2 * 1e15 / LINK.bytes_per_s, rel=2e-3)
    assert fastest(1e12, 64, Topology(LINK))[0] == "ring"
    assert fastest(100, 64, Topology(LINK)) == ("tree", pytest.approx(12 * LINK.latency_s, rel=1e-2))
    assert fastest(1e9, 16, TWO_LEVELS)[0] == "hierarchical"


def test_the_network_of_a_node_is_what_many_nodes_wait_for() -> None:
    slow = Topology(TWO_LEVELS.in_node, Link(1e-5, 1e9), 8)
    assert all_reduce_s(1e9, 512, slow) == pytest.approx(2 * 63 / 64 * 1e9 / 1e9, rel=0.05)
    with pytest.raises(ValueError, match="between nodes is unknown"):
        all_reduce_s(1e6, 16, Topology(LINK, None, 8))


@given(
    num_bytes=st.floats(1, 1e11),
    workers=st.integers(2, 600),
    factor=st.floats(1, 100),
    level=st.sampled_from(["in_node", "between_nodes"]),
)
def test_the_choice_is_never_worse_and_never_hurt_by_bandwidth(
    num_bytes: float, workers: int, factor: float, level: str
) -> None:
    chosen = all_reduce_s(num_bytes, workers, TWO_LEVELS)
    slowest = TWO_LEVELS.slowest(workers)
    assert chosen <= ring_s(num_bytes, workers, slowest)
    assert chosen <= tree_s(num_bytes, workers, slowest)
    assert all_reduce_s(num_bytes, workers, TWO_LEVELS.faster(level, factor)) <= chosen * (1 + 1e-12)
