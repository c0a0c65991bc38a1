"""What verify allows to a run whose gradients travel compressed, against sums made in that arithmetic."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from launchers.comparison import Comparison, bounds_for, compare_trajectory, with_compression
from recipes.recipe import load_recipe
from tests.launchers.test_comparison import make_run

EXACT = bounds_for(load_recipe("verify-gpt"))
KINDS = ("bf16", "fp16")
PAGE = (Path(__file__).parents[2] / "docs" / "matching.md").read_text()


def rounded(numbers: np.ndarray, kind: str) -> np.ndarray:
    """To the nearest number of the type, in float64."""
    if kind == "fp16":
        return numbers.astype(np.float16).astype(np.float64)
    mantissa, exponent = np.frexp(numbers)  # bf16: 8 digits, and float32's range
    return np.ldexp(np.rint(mantissa * 2.0**8), exponent - 8)


def travelled(shares: np.ndarray, kind: str) -> np.ndarray:
    """What a ring makes of the workers' shares [n, elements]: each rounded, and each sum of two."""
    total = rounded(shares[0], kind)
    for share in shares[1:]:
        total = rounded(total + rounded(share, kind), kind)
    return total


def worst_shares(workers: int, kind: str) -> np.ndarray:
    """Shares beside the middle of two numbers, whose roundings all go one way while the numbers cancel out."""
    half = 2.0**-8 if kind == "bf16" else 2.0**-11
    signs = np.where(np.arange(workers) % 2 == 0, 1.0, -1.0)
    return (signs * (1 + half) + 1e-9)[:, None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [2, 3, 4, 8])
def test_no_sum_of_rounded_shares_is_further_off_than_the_bound(workers: int, kind: str) -> None:
    bound = with_compression(EXACT, kind, workers).gradient
    rng = np.random.default_rng(workers)
    spread = rng.uniform(-1, 1, (workers, 20000)) * 2.0 ** rng.integers(-24, 0, 20000)
    even = np.full((workers, 1), 1 / workers) + 1e-4
    largest = worst = 0.0
    for shares in (spread, even, worst_shares(workers, kind)):
        exact = shares.sum(0)
        largest = max(largest, np.abs(shares).max(), np.abs(exact).max())
        worst = max(worst, np.abs(travelled(shares, kind) - exact).max())
    assert worst / largest <= bound
    assert bound <= 3 * workers * worst / largest  # and not one that allows anything


def test_the_bounds_are_those_that_are_documented() -> None:
    for kind, unit, floor in (("bf16", 2.0**-8, 0.0), ("fp16", 2.0**-11, 2.0**-15)):
        for workers in (2, 4):
            wider = with_compression(EXACT, kind, workers)
            expected = 1e-10 + workers * ((1 + unit) ** workers - 1) + workers * floor
            assert wider.gradient == pytest.approx(expected, rel=1e-12)
            assert (wider.loss, wider.update, wider.statistics) == (
                EXACT.loss,
                EXACT.update,
                EXACT.statistics,
            )
            assert (wider.parameters, wider.trajectory_loss, wider.trajectory_norm) == (None, None, None)
    # What the page says of two workers and four.
    found = {
        (k, n): f"{with_compression(EXACT, k, n).gradient:.1e}".replace("e-0", "e-")
        for k in KINDS
        for n in (2, 4)
    }
    two, four = (
        f"{found['bf16', n]} {'in bf16 and' if n == 2 else 'and'} {found['fp16', n]}" for n in (2, 4)
    )
    assert f"That is {two} in fp16 for two workers, {four} for four" in " ".join(PAGE.split())


def test_a_run_that_rounds_nothing_is_held_to_the_bounds_of_all() -> None:
    assert with_compression(EXACT, "none", 8) is EXACT
    half = replace(EXACT, gradient=0.3)  # of a control
    assert with_compression(half, "fp16", 2).gradient > 0.3


def test_trajectories_are_held_to_the_bounds_that_are_given(tmp_path) -> None:
    recipe = load_recipe(
        "verify-gpt",
        ("steps=3", "model.num_layers=1", "model.width=4", "model.context=8", "model.vocabulary=16"),
    )
    run = make_run(tmp_path / "run")
    result = Comparison()
    compare_trajectory(recipe, run, run, result, with_compression(bounds_for(recipe), "fp16", 2))
    assert {kind: worst.bound for kind, worst in result.worst.items()} == {
        "trajectory loss": None,
        "trajectory norm": None,
        "trajectory parameters": None,
    }
