"""The least squares: they get to the bottom, also of a bent valley, and stay inside the bounds."""

import pytest

from scaling.search import closest


def test_the_bottom_of_a_bent_valley_is_found() -> None:
    found = closest(
        lambda p: (1 - p[0], 10 * (p[1] - p[0] ** 2)), (-1.2, 1.0), (-5, -5), (5, 5)
    )  # Rosenbrock
    assert found == pytest.approx((1.0, 1.0), abs=1e-5)


def test_bounds_hold_even_where_the_search_starts_on_one() -> None:
    assert closest(lambda p: (p[0] - 3, p[1] + 1), (0.0, 0.0), (0, 0), (2, 9)) == pytest.approx(
        (2, 0), abs=1e-6
    )
