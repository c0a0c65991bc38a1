"""Links: nodes and levels, and parameters that come back out of step times made with them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.specs import GptSpec
from scaling.allreduce import ring_s
from scaling.links import INDISTINGUISHABLE, TYPICAL_LATENCY_S, Link, Topology, fit_link
from scaling.overlap import Packing, gradients_in_order
from scaling.step_model import Workload, predict_step

COMPUTE_S = 0.1


def step_s(link: Link, workers: int) -> float:
    """A step that exchanges 40 pieces of 2 MB behind its computing."""
    return COMPUTE_S + 40 * ring_s(2e6, workers, link)


def test_nodes_fill_up_and_the_slowest_level_counts() -> None:
    inside, between = Link(1e-6, 1e11), Link(1e-5, 1e10)
    topology = Topology(inside, between, 8)
    assert [topology.nodes(n) for n in (1, 8, 9, 64)] == [1, 1, 2, 8]
    assert topology.slowest(8) == inside
    assert topology.slowest(9) == between
    assert Topology(inside).nodes(10_000) == 1
    assert topology.without_latency("in_node").in_node == Link(0.0, 1e11)
    assert topology.faster("between_nodes", 4).between_nodes == Link(1e-5, 4e10)


@settings(max_examples=15, deadline=None)
@given(log_bandwidth=st.floats(8, 10.5), log_latency=st.floats(-4.5, -3))
def test_latency_and_bandwidth_come_back_from_three_counts(log_bandwidth: float, log_latency: float) -> None:
    true = Link(10**log_latency, 10**log_bandwidth)
    fit = fit_link(step_s, {n: step_s(true, n) for n in (2, 4, 8)})
    assert not fit.is_bound
    assert fit.residual < 1e-3
    assert step_s(fit.link, 64) == pytest.approx(step_s(true, 64), rel=0.03)
    assert fit.link.latency_s == pytest.approx(true.latency_s, rel=0.1)
    assert fit.link.bytes_per_s == pytest.approx(true.bytes_per_s, rel=0.35)  # above 10 GB/s latency hides it


def test_packs_that_form_on_the_way_do_not_trap_the_search() -> None:
    gradients = gradients_in_order(
        GptSpec(num_layers=3, num_heads=3, width=96, context=96, vocabulary=256), 4
    )

    def fused_step_s(link: Link, workers: int) -> float:
        work = Workload(gradients, Packing("fusion", 1e8, cycle_s=1e-3), compute_s=0.12 / workers)
        return predict_step(work, workers, Topology(link)).step_s

    true = Link(2e-4, 1e8)  # one start of the search ends 1.4 % off
    assert fit_link(fused_step_s, {n: fused_step_s(true, n) for n in (2, 4, 8)}).residual < 1e-4


def test_one_count_tells_the_bandwidth_at_the_typical_latency() -> None:
    true = Link(TYPICAL_LATENCY_S, 3e9)
    fit = fit_link(step_s, {2: step_s(true, 2)})
    assert fit.link.latency_s == pytest.approx(TYPICAL_LATENCY_S)
    assert fit.link.bytes_per_s == pytest.approx(3e9, rel=1e-2)
    again = fit_link(step_s, {2: step_s(true, 2)}, start=Link(TYPICAL_LATENCY_S, 5e9))
    assert again.link.bytes_per_s == pytest.approx(3e9, rel=1e-2)


@pytest.mark.parametrize("measured_s", [COMPUTE_S, COMPUTE_S * 0.97])
def test_a_hidden_exchange_gives_the_slowest_link_that_would_hide(measured_s: float) -> None:
    fit = fit_link(step_s, {2: measured_s})
    assert fit.is_bound
    assert step_s(fit.link, 2) == pytest.approx(COMPUTE_S * (1 + INDISTINGUISHABLE), rel=1e-4)


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="no measured steps"):
        fit_link(step_s, {})


def test_a_hidden_exchange_is_hidden_at_every_count() -> None:
    fit = fit_link(step_s, dict.fromkeys((2, 8, 4), COMPUTE_S))
    limit_s = COMPUTE_S * (1 + INDISTINGUISHABLE)
    assert step_s(fit.link, 4) < step_s(fit.link, 8) == pytest.approx(limit_s, rel=1e-4)
