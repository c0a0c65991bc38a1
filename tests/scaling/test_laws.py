"""Parameters come back from speed-ups that follow a law, within their intervals."""

import numpy as np
import pytest

from scaling import laws
from scaling.laws import AMDAHL, GUSTAFSON, USL, Law, fit
from scaling.statistics import sampled_medians


def exact(law: Law, workers: list[int], *parameters: float) -> list[np.ndarray]:
    """Speed-ups without noise, as sampled quantities of four replicas."""
    return [np.repeat(law.speed_up(np.array([float(count)]), *parameters), 5) for count in workers]


def sampled_speed_ups(law: Law, workers: list[int], parameters: tuple, seed: int) -> list[np.ndarray]:
    """Five runs of a base and of each count, every run with its own luck and its own noisy windows."""
    rng = np.random.default_rng([11, seed])

    def step_s(median_s: float) -> np.ndarray:
        runs = [
            median_s * (1 + 0.01 * rng.standard_normal()) * (1 + 0.02 * rng.standard_normal((20, 1)))
            for _ in range(5)
        ]
        return sampled_medians(runs, rng, 200)[0]

    base = step_s(1.0)
    return [base / step_s(1 / law.speed_up(np.array(float(count)), *parameters)) for count in workers]


@pytest.mark.parametrize(
    ("law", "truth"), [(AMDAHL, (0.9,)), (GUSTAFSON, (0.2,)), (USL, (0.05, 0.002))], ids=lambda x: str(x)[:20]
)
def test_parameters_are_recovered_within_their_intervals(law: Law, truth: tuple) -> None:
    """In at least 85 % of 20 studies; 95 % are aimed at. No interval is so wide that it says nothing."""
    held = np.zeros(len(truth))
    workers = [2, 4, 8, 16]
    for seed in range(20):
        found = fit(law, workers, sampled_speed_ups(law, workers, truth, seed), 5)
        assert found.parameters is not None
        for index, (name, true) in enumerate(zip(law.parameters, truth, strict=True)):
            estimate = found.parameters[name]
            assert estimate.low is not None
            assert estimate.high is not None
            held[index] += estimate.low <= true <= estimate.high
            assert estimate.high - estimate.low < 0.8 * true
    assert (held >= 17).all(), held


@pytest.mark.parametrize("law", [AMDAHL, GUSTAFSON, USL], ids=lambda law: law.name)
def test_speed_ups_without_noise_are_fitted_exactly(law: Law) -> None:
    truth = (0.3, 0.01)[: len(law.parameters)]
    found = fit(law, [2, 4, 8], exact(law, [2, 4, 8], *truth), 3)
    assert found.parameters is not None
    assert [estimate.value for estimate in found.parameters.values()] == pytest.approx(list(truth), rel=1e-4)
    assert found.residual == pytest.approx(0, abs=1e-6)


def test_as_many_counts_as_parameters_determine_nothing() -> None:
    for law, workers in ((AMDAHL, [1, 2]), (USL, [1, 2, 4]), (USL, [2, 2, 4]), (GUSTAFSON, [])):
        found = fit(law, workers, exact(law, workers, *(0.1,) * len(law.parameters)), 3)
        assert found.parameters is None
        assert found.residual is None
        assert "undetermined: found" in str(found.reason)
    assert fit(USL, [2, 4, 8], exact(USL, [2, 4, 8], 0.1, 0.0), 3).parameters is not None


def test_the_wrong_law_leaves_a_residual() -> None:
    """Retrograde speed-ups: contention alone, which is Amdahl's law, cannot fall."""
    workers = [2, 4, 8, 16, 32]
    sampled = exact(USL, workers, 0.05, 0.01)
    fits = {law.name: fit(law, workers, sampled, 3).residual for law in (AMDAHL, USL)}
    assert fits["usl"] == pytest.approx(0, abs=1e-6)
    assert fits["amdahl"] is not None
    assert fits["amdahl"] > 0.1


def test_better_than_linear_stops_at_the_bounds() -> None:
    found = fit(USL, [2, 4, 8], [np.full(5, value) for value in (2.1, 4.3, 8.8)], 3)
    assert found.parameters is not None
    assert [estimate.value for estimate in found.parameters.values()] == pytest.approx([0, 0], abs=1e-9)
    assert found.residual is not None
    assert found.residual > 0.05


def test_amdahls_law_is_the_universal_one_without_coherency() -> None:
    workers = np.array([1.0, 2, 8, 64])
    np.testing.assert_allclose(laws.amdahl(workers, 0.9), laws.usl(workers, 0.1, 0.0))
    assert laws.amdahl(np.array(1e12), 0.9) == pytest.approx(10)
    assert laws.gustafson(np.array(8.0), 0.25) == 8 - 0.25 * 7
