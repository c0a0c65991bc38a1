"""A ratio of medians with its bootstrap interval.

The unit that is drawn again is the pair of processes, with all its windows: windows of one process are not
independent (memory layout, neighbours), pairs are. Percentile bootstrap: Efron & Tibshirani 1993, chapter 13.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """Median of ours over median of theirs, with the ends of its 95 % interval."""

    ours: float
    theirs: float
    low: float
    high: float

    @property
    def value(self) -> float:
        """The ratio of the two medians."""
        return self.ours / self.theirs

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
    if not ours or len(ours) != len(theirs) or not all(map(len, (*ours, *theirs))):
        raise ValueError(f"pairs: found {len(ours)} and {len(theirs)}, expected as many of each, none empty")
    random = np.random.default_rng(seed)
    ratios = []
    for drawn in random.integers(len(ours), size=(RESAMPLES, len(ours))):
        ratios.append(_median(ours, drawn) / _median(theirs, drawn))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    everyone = np.arange(len(ours))
    return Ratio(_median(ours, everyone), _median(theirs, everyone), float(low), float(high))


def _median(pairs: Sequence[Sequence[float]], drawn: np.ndarray) -> float:
    return float(np.median(np.concatenate([pairs[index] for index in drawn])))
