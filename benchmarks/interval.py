"""A ratio with its bootstrap interval: of medians, or of windows that took turns.

The unit that is drawn again is the pair of processes, with all its windows: windows of one process are not
independent (memory layout, neighbours), pairs are. Percentile bootstrap: Efron & Tibshirani 1993, chapter 13.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """Median of ours, median of theirs, and the ends of the 95 % interval of their ratio."""

    ours: float
    theirs: float
    low: float
    high: float
    paired: float | None = None

    @property
    def value(self) -> float:
        """The ratio as windows had it that took turns, or else that of the two medians."""
        return self.ours / self.theirs if self.paired is None else self.paired

    @property
    def half_width(self) -> float:
        """The longer arm of the interval, as a share of the ratio."""
        return max(self.high - self.value, self.value - self.low) / self.value


def ratio_of_medians(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], seed: int = 0
) -> Ratio:
    """The ratio over all windows; `ours[p]` and `theirs[p]` are the windows of process pair p.

    Raises ValueError for no pairs, an empty pair, or different numbers of pairs.
    """
    _check_pairs(ours, theirs)
    low, high = _interval(lambda drawn: _median(ours, drawn) / _median(theirs, drawn), len(ours), seed)
    everyone = np.arange(len(ours))
    return Ratio(_median(ours, everyone), _median(theirs, everyone), low, high)


def ratio_of_turns(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], seed: int = 0
) -> Ratio:
    """The median of the ratios of `ours[p][w]` to `theirs[p][w]`, windows of pair p that ran one after the other.

    What slows the machine for longer than a window slows both, and leaves their ratio alone; a ratio of medians over
    all windows it moves. Raises ValueError for no pairs, an empty pair, or different numbers of pairs or windows.
    """
    _check_pairs(ours, theirs)
    if [*map(len, ours)] != [*map(len, theirs)]:
        raise ValueError(
            f"windows: found {[*map(len, ours)]} and {[*map(len, theirs)]}, expected as many of each"
        )
    ratios = [np.divide(*windows) for windows in zip(ours, theirs, strict=True)]
    low, high = _interval(lambda drawn: _median(ratios, drawn), len(ratios), seed)
    everyone = np.arange(len(ratios))
    paired = _median(ratios, everyone)
    return Ratio(_median(ours, everyone), _median(theirs, everyone), low, high, paired)


def _check_pairs(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> None:
    if not ours or len(ours) != len(theirs) or not all(map(len, (*ours, *theirs))):
        raise ValueError(f"pairs: found {len(ours)} and {len(theirs)}, expected as many of each, none empty")


def _interval(figure: Callable[[np.ndarray], float], num_pairs: int, seed: int) -> tuple[float, float]:
    """The ends of the interval of a figure of the pairs that are drawn, given by their indices."""
    drawn = np.random.default_rng(seed).integers(num_pairs, size=(RESAMPLES, num_pairs))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile([figure(indices) for indices in drawn], [tail, 1 - tail])
    return float(low), float(high)


def _median(pairs: Sequence[Sequence[float] | np.ndarray], drawn: np.ndarray) -> float:
    return float(np.median(np.concatenate([pairs[index] for index in drawn])))
