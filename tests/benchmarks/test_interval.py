import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.interval import ratio_of_medians, ratio_of_turns

times = st.floats(0.1, 10)
pairs = st.lists(st.lists(times, min_size=1, max_size=5), min_size=1, max_size=5)


@settings(deadline=None, max_examples=20)  # each draws two thousand times
@given(pairs, st.floats(0.5, 2))
@pytest.mark.parametrize("ratio_of", [ratio_of_medians, ratio_of_turns])
def test_a_program_that_is_slower_by_a_factor_has_that_ratio(
    ratio_of, theirs: list[list[float]], factor: float
) -> None:
    ratio = ratio_of([[factor * time for time in pair] for pair in theirs], theirs)
    assert ratio.value == pytest.approx(factor)
    assert ratio.low == pytest.approx(
        factor
    )  # each drawn pair has both programs' windows, which differ by it alone
    assert ratio.high == pytest.approx(factor)


@pytest.mark.parametrize("ratio_of", [ratio_of_medians, ratio_of_turns])
def test_the_interval_holds_the_true_ratio_as_often_as_it_says(ratio_of) -> None:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(30):
        ours, theirs = (level * random.lognormal(0, 0.05, (15, 4)) for level in (1.1, 1.0))
        ratio = ratio_of(ours.tolist(), theirs.tolist())
        held += ratio.low <= 1.1 <= ratio.high
    assert 24 <= held <= 30  # of 30, at 95 %; the seed is fixed


def test_a_machine_that_slows_down_now_and_then_leaves_turns_alone() -> None:
    random = np.random.default_rng(2)
    machine = random.choice([1.0, 1.3], (15, 4))
    ours, theirs = (level * machine * random.lognormal(0, 0.01, (15, 4)) for level in (0.98, 1.0))
    turns, medians = (
        ratio_of(ours.tolist(), theirs.tolist()) for ratio_of in (ratio_of_turns, ratio_of_medians)
    )
    assert turns.value == pytest.approx(0.98, abs=0.005)
    assert turns.half_width < 0.01 < medians.half_width


def test_windows_of_one_process_do_not_narrow_the_interval() -> None:
    ours = [[1.0], [1.1], [1.2], [1.3]]
    few = ratio_of_medians(ours, [[1.0]] * 4)
    many = ratio_of_medians([pair * 50 for pair in ours], [[1.0]] * 4)
    assert many.half_width > 0.8 * few.half_width > 0


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([[1.0]], [[1.0], [1.0]]), ([[]], [[1.0]])])
def test_what_cannot_be_compared_is_an_error(ours: list[list[float]], theirs: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="pairs: found"):
        ratio_of_medians(ours, theirs)


def test_windows_without_an_opponent_are_an_error() -> None:
    with pytest.raises(ValueError, match="windows: found"):
        ratio_of_turns([[1.0, 2.0]], [[1.0]])
