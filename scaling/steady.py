"""From which window on a run is steady: found in its step times, not guessed.

The rule is MSER (White, An Effective Truncation Heuristic for Bias Reduction in Simulation Output, Simulation 69,
1997): leave out the first d windows for which the standard error of the mean of the others,

    sum over i > d of (x_i - mean)^2 / (n - d)^2,

is smallest. MSER-5 takes it over means of five observations; here a window is a mean over several steps already. Two
changes keep it sound on step times:

- a running median of three goes first, so that one slow window (a page cache, another job) draws no line behind it;
- d is at most half of the windows, and the two halves of what stays must agree: a run that is still drifting, or that
  changes its pace in the middle, is "not steady", which is a result and is shown as one (Hoefler and Belli, SC15:
  how warm-up was treated is part of a result).
"""

from dataclasses import dataclass

import numpy as np

MIN_WINDOWS = 6
DRIFT = 0.05
"""Two halves that differ by less than this part are steady enough to be told as one number."""
CLOCK_NOISE = 1e-6
"""Deviations by less than this part are rounding and the clock's: they move no start."""
NOISE_SIGMAS = 3.0
"""Two halves that differ by less than this many standard errors do not show a drift."""


@dataclass(frozen=True)
class Steady:
    """`start`: index of the first steady window, None where there is none, and then `reason` says why in one line."""

    start: int | None
    reason: str | None = None


def steady_start(step_time_s: np.ndarray) -> Steady:
    """Where a run's step times [windows] become steady."""
    count = len(step_time_s)
    if count < MIN_WINDOWS:
        return Steady(
            None, f"not steady: found {count} windows, expected at least {MIN_WINDOWS}; log more often"
        )
    if not (np.isfinite(step_time_s).all() and (step_time_s > 0).all()):
        return Steady(None, "not steady: found a step time that is not above 0 s")
    smooth = running_median(step_time_s)
    start = min(range(count // 2 + 1), key=lambda left_out: _mser(smooth[left_out:]))
    first, second = np.array_split(step_time_s[start:], 2)
    change = float(np.median(second) - np.median(first))
    level = float(np.median(step_time_s[start:]))
    if abs(change) > max(DRIFT * level, NOISE_SIGMAS * _standard_error(first, second)):
        return Steady(
            None,
            f"not steady: after {start} of {count} windows the step time still went from "
            f"{np.median(first):.4g} s to {np.median(second):.4g} s; train for more steps",
        )
    return Steady(start)


def running_median(values: np.ndarray) -> np.ndarray:
    """Each value's median with its two neighbours; the first stays as it is, the last takes the two before it."""
    if len(values) < 3:
        return values
    middle = np.median(np.lib.stride_tricks.sliding_window_view(values, 3), axis=1)
    return np.concatenate([values[:1], middle, middle[-1:]])


def _mser(values: np.ndarray) -> float:
    """The squared standard error of the mean."""
    return float(max(np.var(values), (CLOCK_NOISE * np.mean(values)) ** 2) / len(values))


def _standard_error(first: np.ndarray, second: np.ndarray) -> float:
    """Of the difference of two medians of normal noise, its sigma taken from the median absolute deviations.

    The median's standard error is sqrt(pi / 2) sigma / sqrt(n), and sigma is 1.4826 deviations.
    """
    variances = [
        np.pi / 2 * (1.4826 * np.median(np.abs(half - np.median(half)))) ** 2 / len(half)
        for half in (first, second)
    ]
    return float(np.sqrt(sum(variances)))
