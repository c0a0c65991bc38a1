"""Gradients on their way while the backward pass runs: order, packs, and what no schedule can beat."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.specs import GPT_SIZES, ResNetSpec, parameter_count
from scaling.overlap import (
    FIRST_BUCKET_BYTES,
    MIB,
    Gradient,
    Packing,
    buckets,
    exchange,
    expected_maximum,
    gradients_in_order,
)

SPECS = [ResNetSpec(50, 1000, 224), ResNetSpec(18, 10, 8), ResNetSpec(101, 1000, 225), GPT_SIZES["124m"]]
GRADIENTS = st.lists(
    st.tuples(st.floats(1, 5e7), st.floats(0, 1)), min_size=1, max_size=30
).map(
    lambda pairs: tuple(
        Gradient(size, ready)
        for (size, _), ready in zip(pairs, sorted(share for _, share in pairs), strict=True)
    )
)  # fmt: skip
PACKINGS = st.builds(
    Packing,
    st.sampled_from(["buckets", "fusion", "after"]),
    st.sampled_from([0.0, 1e6, 25e6, 1e9]),
    st.sampled_from([0.0, 1e-3]),
)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_gradients_are_all_there_and_the_operations_add_up(spec) -> None:
    gradients = gradients_in_order(spec, 4)
    assert sum(gradient.num_bytes for gradient in gradients) == 4 * parameter_count(spec)
    shares = [gradient.ready_share for gradient in gradients]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0, abs=1e-12)  # the layers' operations are forward_flops


def test_the_last_layers_come_first() -> None:
    resnet, gpt = (gradients_in_order(spec, 4) for spec in (SPECS[0], SPECS[3]))
    assert [g.num_bytes for g in resnet[:2]] == [4 * 1000, 4 * 1000 * 2048]
    assert resnet[1].ready_share < 0.001
    assert gpt[0].ready_share > 0.2  # the head's operations come before any gradient
    assert gpt[-1].num_bytes == 4 * 50257 * 768  # and the tied embedding's gradient is the last


def test_buckets_close_when_they_are_full_and_the_first_is_small() -> None:
    gradients = [Gradient(0.75 * MIB, i / 10) for i in range(1, 11)]
    packs = list(buckets(gradients, Packing("buckets", 3 * MIB)))
    assert [pack.num_bytes / MIB for pack in packs] == [1.5, 3.0, 3.0]
    assert [pack.ready_share for pack in packs] == [0.2, 0.6, 1.0]
    assert FIRST_BUCKET_BYTES == 2**20
    assert [p.num_bytes for p in buckets(gradients, Packing("after"))] == [7.5 * MIB]


def test_a_step_worked_out_by_hand() -> None:
    # Ready at 1, 2 and 4 s; a second per 10 bytes: sent 1 to 3, 3 to 4, 4 to 5.
    gradients = [Gradient(20, 0.25), Gradient(10, 0.5), Gradient(10, 1.0)]
    alone = exchange(gradients, Packing("fusion", 0), 4.0, lambda size: size / 10)
    assert (alone.end_s, alone.busy_s, alone.num_packs, alone.largest_bytes) == (5.0, 4.0, 3, 20)
    # All fit one bucket, which is ready at 4 s.
    one = exchange(gradients, Packing("buckets", 1e9), 4.0, lambda size: size / 10)
    assert (one.end_s, one.busy_s, one.num_packs) == (8.0, 4.0, 1)
    # Fusion at 0.1 s a byte: the first goes at 0.5 and takes until 2.5, when the two others wait: both until 3.5.
    both = exchange(
        [Gradient(20, 0.25), Gradient(5, 0.5), Gradient(5, 1.0)],
        Packing("fusion", 1e9),
        2.0,
        lambda b: b / 10,
    )
    assert (both.end_s, both.num_packs) == (3.5, 2)
    # Looked at every 0.8 s: 20 at 0.9 until 2.9, and the others at 3.3 together.
    looks = exchange(
        [Gradient(20, 0.25), Gradient(5, 0.5), Gradient(5, 1.0)],
        Packing("fusion", 1e9, cycle_s=0.8),
        2.0,
        lambda size: size / 10,
    )
    assert (looks.end_s, looks.num_packs) == (pytest.approx(4.3), 2)
    # Three that are ready together, of which two fit.
    fitting = exchange([Gradient(10, 1.0)] * 3, Packing("fusion", 25), 1.0, lambda size: size / 10)
    assert (fitting.num_packs, fitting.largest_bytes, fitting.end_s) == (2, 20, 4.0)


@given(gradients=GRADIENTS, packing=PACKINGS, backward_s=st.floats(0.001, 1), rate=st.floats(1e6, 1e11))
def test_no_schedule_beats_computing_or_communication(gradients, packing, backward_s, rate) -> None:
    def cost_s(size: float) -> float:
        return 1e-5 + size / rate

    total_bytes = sum(gradient.num_bytes for gradient in gradients)
    sent = exchange(gradients, packing, backward_s, cost_s)
    near = 1 - 1e-9
    assert sent.end_s >= gradients[-1].ready_share * backward_s * near
    assert sent.end_s >= sent.busy_s * near
    assert sent.busy_s == pytest.approx(sent.num_packs * 1e-5 + total_bytes / rate)
    waits_s = sent.num_packs * packing.cycle_s
    assert sent.end_s <= (backward_s + sent.busy_s + waits_s) / near
    if packing.kind != "fusion":  # other packs may come about there
        quicker = exchange(gradients, packing, backward_s, lambda size: 1e-5 + size / (2 * rate))
        assert quicker.end_s <= sent.end_s
    after = exchange(gradients, Packing("after"), backward_s, cost_s)
    assert after.end_s == pytest.approx(backward_s + cost_s(total_bytes))


def test_the_slowest_of_many() -> None:
    # Exact expectations of the largest of n standard normals (Harter 1961).
    exact = {1: 0.0, 2: 0.56419, 4: 1.02938, 10: 1.53875, 100: 2.50759}
    for workers, value in exact.items():
        assert expected_maximum(workers) == pytest.approx(value, abs=0.03)
    assert expected_maximum(1) == 0
    assert math.isfinite(expected_maximum(1_000_000))
