"""Warm-ups of known length, and runs that never become steady."""

import numpy as np
import pytest

from scaling.steady import MIN_WINDOWS, running_median, steady_start


def noisy(windows: int, noise: float = 0.02, seed: int = 0) -> np.ndarray:
    return 0.1 * (1 + noise * np.random.default_rng(seed).standard_normal(windows))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("warm_up", [1, 4, 10])
def test_a_warm_up_is_cut_where_it_ends(warm_up: int, seed: int) -> None:
    times = noisy(60, seed=seed)
    times[:warm_up] *= 1.5
    times[0] += 5.0  # compilation
    found = steady_start(times).start
    assert found is not None
    assert warm_up <= found <= 30
    assert np.median(times[found:]) == pytest.approx(0.1, rel=0.02)


def test_a_warm_up_may_be_faster_than_what_follows() -> None:
    """A full queue of prefetched batches, then the loader's own pace."""
    times = noisy(40)
    times[:6] *= 0.6
    assert 6 <= (steady_start(times).start or 0) <= 20


def test_a_decay_is_cut_where_noise_hides_it() -> None:
    times = noisy(100) * (1 + 2 * np.exp(-np.arange(100) / 5))
    found = steady_start(times).start
    assert found is not None
    assert 10 <= found <= 50
    assert np.median(times[found:]) == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("place", [1, 9, 15, 24, 29])
def test_one_slow_window_draws_no_line_behind_it(place: int) -> None:
    calm = noisy(30)
    calm[0] += 3.0
    disturbed = calm.copy()
    disturbed[place] *= 20
    found, without = steady_start(disturbed).start, steady_start(calm).start
    assert found is not None
    assert without is not None
    assert abs(found - without) <= 2
    assert np.median(disturbed[found:]) == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize(
    "shape",
    [np.linspace(1, 2, 40), np.where(np.arange(40) < 26, 1.0, 1.4), np.linspace(2, 1, 40) ** 2],
    ids=["slows down", "changes its pace", "speeds up"],
)
def test_a_run_that_still_changes_is_not_steady(shape: np.ndarray) -> None:
    found = steady_start(noisy(40) * shape)
    assert found.start is None
    assert "not steady: after" in str(found.reason)


def test_noise_is_not_taken_for_a_drift() -> None:
    starts = [steady_start(noisy(20, noise=0.15, seed=seed)).start for seed in range(100)]
    assert sum(start is None for start in starts) <= 3


def test_too_few_windows_or_no_times_are_told() -> None:
    assert "found 5 windows, expected at least 6" in str(steady_start(noisy(MIN_WINDOWS - 1)).reason)
    assert steady_start(noisy(MIN_WINDOWS)).start is not None
    assert "not above 0 s" in str(steady_start(np.zeros(10)).reason)


def test_the_running_median_keeps_its_length() -> None:
    assert running_median(np.array([9.0, 1, 8, 2, 3, 50])).tolist() == [9, 8, 2, 3, 3, 3]
