from math import cos, pi

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.recipe import from_dict, load_recipe
from training.schedule import digest, learning_rates

CONTENT = load_recipe("verify-gpt").as_dict()


def rates(steps: int, learning_rate: float = 1.0, **schedule) -> np.ndarray:
    optimizer = {**CONTENT["optimizer"], "learning_rate": learning_rate}
    return learning_rates(
        from_dict({**CONTENT, "steps": steps, "optimizer": optimizer, "schedule": schedule})
    )


def test_constant_is_the_peak_from_the_first_step_on() -> None:
    found = rates(4, 0.3)
    assert found.dtype == np.float64
    assert found.tolist() == [0.3] * 4


@pytest.mark.parametrize("shape", ["constant", "cosine", "step"])
def test_warm_up_rises_in_equal_steps_and_ends_at_the_peak(shape: str) -> None:
    found = rates(8, shape=shape, warmup_steps=4)
    assert found[:5].tolist() == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_cosine_falls_from_the_peak_towards_the_final_rate() -> None:
    found = rates(14, 3.0, shape="cosine", warmup_steps=4, final_learning_rate=1.0)
    expected = [2.0 + cos(pi * k / 10) for k in range(10)]
    np.testing.assert_allclose(found[4:], expected, rtol=1e-15)
    assert found[9] == pytest.approx(2.0, rel=1e-15)  # half-way


def test_step_decays_from_each_milestone_on() -> None:
    found = rates(7, shape="step", milestones=[2, 5], decay_factor=0.5)
    assert found.tolist() == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_milestones_count_from_the_start_and_not_from_the_end_of_the_warm_up() -> None:
    assert rates(5, shape="step", milestones=[3], decay_factor=0.5, warmup_steps=2).tolist() == [
        *(0.5, 1, 1),
        *(0.5, 0.5),
    ]


@pytest.mark.parametrize("shape", ["constant", "cosine", "step"])
@pytest.mark.parametrize("warmup", [3, 5])
def test_a_run_may_be_shorter_than_its_warm_up_or_end_with_it(shape: str, warmup: int) -> None:
    np.testing.assert_allclose(rates(3, shape=shape, warmup_steps=warmup), (np.arange(3) + 1) / warmup)


@settings(deadline=None)
@given(
    st.integers(1, 300),
    st.floats(1e-8, 1e3),
    st.sampled_from(["constant", "cosine", "step"]),
    st.integers(0, 400),
    st.floats(0, 1),
    st.sets(st.integers(1, 350), max_size=3),
    st.floats(0.01, 1),
)
def test_every_rate_is_finite_and_nowhere_above_the_peak(
    steps, peak, shape, warmup, final, milestones, factor
) -> None:
    found = rates(
        steps,
        peak,
        shape=shape,
        warmup_steps=warmup,
        final_learning_rate=final * peak,
        milestones=sorted(milestones),
        decay_factor=factor,
    )
    assert found.shape == (steps,)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert (found <= peak * (1 + 1e-12)).all()
    assert (np.diff(found[:warmup]) > 0).all()
    assert (np.diff(found[warmup:]) <= 1e-12 * peak).all()
    if shape == "cosine":
        assert (found[warmup:] >= final * peak * (1 - 1e-12)).all()
    if 0 < warmup < steps and shape != "step":  # no jump where the warm-up ends
        assert found[warmup - 1] == pytest.approx(peak, rel=1e-15)
        assert found[warmup] == pytest.approx(peak, rel=1e-15)


def test_the_digest_knows_the_last_bit() -> None:
    found = rates(4, 0.3)
    other = found.copy()
    other[2] = np.nextafter(other[2], 1)
    assert digest(found) == digest(found[::1].copy())
    assert digest(found) != digest(other)
    assert len(digest(found)) == 16
