"""Bounded least squares over a few numbers."""

from collections.abc import Callable, Sequence

import numpy as np

MOST_STEPS = 30
"""A smooth cost takes five to ten; one with kinks is no better off after more."""


def closest(
    misses: Callable[[Sequence[float]], Sequence[float]],
    start: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
) -> tuple[float, ...]:
    """The point between `low` and `high` where the sum of squared misses is smallest, near `start`.

    A local search (Branch, Coleman and Li 1999, as SciPy has it): of several valleys start in the right one.
    """
    # Half a second to import, which whoever only reads need not wait for.
    from scipy.optimize import least_squares  # type: ignore[import-untyped]  # no stubs are installed

    inside = np.clip(start, np.asarray(low) + 1e-9, np.asarray(high) - 1e-9)
    found = least_squares(
        misses,
        inside,
        bounds=(low, high),
        diff_step=1e-5,
        xtol=1e-7,
        ftol=1e-10,
        gtol=1e-10,
        max_nfev=MOST_STEPS,
    )
    return tuple(found.x.tolist())
