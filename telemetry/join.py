"""Joins the samples of a device, or of a host, with windows of its training. Pure functions, no files.

Both carry CLOCK_MONOTONIC of the same boot of one host; wall-clock times are not looked at. A sample's value holds for
the time since the sample before it, as counters are means over that time, or the newest value in it:

    samples   -----a----b----c----                  ----d----e
    windows      [     ][     ]      [   ]  [        ]
                 a a b b c c c                       d d

After a gap, and at a session's start, a sample holds for one interval. Gaps are never filled: `coverage` says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from telemetry.columns import ECC_COUNTERS, SLOW_GAUGES, Series
from telemetry.series import GPU_IDLE, THROTTLE_REASONS

LONGEST_HOLD = 2.5
"""Samples further apart than this many intervals have a gap between them."""
MOST_POWER_W = 10_000.0
"""No device draws more: a counter that would have taken more than this to wrap has been reset."""


@dataclass(frozen=True)
class Usage:
    """What a device or host did in each of w windows. Arrays of [w]; NaN is unknown.

    covered_s: how much of the window samples cover. mean, peak: weighted with time, over known_s of each gauge.
    energy_j: from the counter. energy_from_power_j: power_mw integrated, where it is known in the whole window.
    throttled_s: with any of THROTTLE_REASONS. idle_s: with NVML's reason gpu_idle.
    ecc: increases, of those which the samples in the window brought to light.
    """

    seconds: np.ndarray
    covered_s: np.ndarray
    mean: dict[str, np.ndarray] = field(default_factory=dict)
    peak: dict[str, np.ndarray] = field(default_factory=dict)
    known_s: dict[str, np.ndarray] = field(default_factory=dict)
    energy_j: np.ndarray = field(default_factory=lambda: np.empty(0))
    energy_from_power_j: np.ndarray = field(default_factory=lambda: np.empty(0))
    throttled_s: np.ndarray = field(default_factory=lambda: np.empty(0))
    throttled_s_by_reason: dict[str, np.ndarray] = field(default_factory=dict)
    idle_s: np.ndarray = field(default_factory=lambda: np.empty(0))
    ecc: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def coverage(self) -> np.ndarray:
        """Share of each window that samples cover, 0 to 1."""
        return _ratio(self.covered_s, self.seconds)


def join(series: Series, start_s: np.ndarray, end_s: np.ndarray) -> Usage:
    """What the samples say of the windows from start_s to end_s, each [w], in any order."""
    start_s, end_s = np.asarray(start_s, float), np.asarray(end_s, float)
    all_samples = np.ones(len(series.time_s), bool)
    overlap = _Overlap(series, all_samples, series.interval_s, start_s, end_s)
    mean, peak, known_s = {}, {}, {}
    for name, values in series.gauges.items():
        there, own = all_samples, overlap
        if name in SLOW_GAUGES:
            there = ~np.isnan(values)
            own = _Overlap(series, there, series.slow_interval_s, start_s, end_s)
        mean[name], peak[name], known_s[name] = own.gauge(values[there])

    mask, known = series.integers["clocks_event_reasons"]
    reasons = np.where(known, mask, 0).astype(np.int64)
    unknown = np.where(known, 0.0, np.nan)

    def seconds_with(bits: int) -> np.ndarray:
        share, _, seconds = overlap.gauge(((reasons & bits) != 0) + unknown)
        return share * seconds

    energy = _Counter(series, "energy_mj", series.interval_s, wraps=True)
    power_mw, power_known_s = mean.get("power_mw", np.nan), known_s.get("power_mw", 0.0)
    whole = power_known_s >= (end_s - start_s) - 1e-6  # a microsecond for the rounding of times
    return Usage(
        seconds=np.maximum(end_s - start_s, 0.0),
        covered_s=overlap.seconds(np.ones(len(series.time_s))),
        mean=mean,
        peak=peak,
        known_s=known_s,
        energy_j=energy.between(start_s, end_s, stepwise=False) / 1e3,
        energy_from_power_j=np.where(whole, power_mw, np.nan) * (end_s - start_s) / 1e3,
        throttled_s=seconds_with(sum(THROTTLE_REASONS)),
        throttled_s_by_reason={name: seconds_with(bit) for bit, name in THROTTLE_REASONS.items()},
        idle_s=seconds_with(GPU_IDLE),
        ecc={
            name: _Counter(series, name, series.slow_interval_s).between(start_s, end_s, stepwise=True)
            for name in ECC_COUNTERS
        },
    )


def increase(series: Series, name: str) -> float | None:
    """How much a counter grew within the sessions; None if that is unknown, or it was reset."""
    counter = _Counter(series, name, np.full(len(series.time_s), np.inf))
    reset = counter.same_session & ~counter.valid
    return None if reset.any() or not counter.valid.any() else float(counter.grown[counter.valid].sum())


def concatenate(parts: Sequence[Usage]) -> Usage:
    """The windows of all parts (at least one, all of one kind), one after the other."""

    def together(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: np.concatenate([value[name] for value in values]) for name in values[0]}
        return np.concatenate(values)

    return Usage(**{one.name: together([getattr(part, one.name) for part in parts]) for one in fields(Usage)})


class _Overlap:
    """Which samples hold in which window, and for how long. `there`: the samples that count."""

    def __init__(
        self,
        series: Series,
        there: np.ndarray,
        interval_s: np.ndarray,
        start_s: np.ndarray,
        end_s: np.ndarray,
    ) -> None:
        until_s, session, interval_s = series.time_s[there], series.session[there], interval_s[there]
        gap_s = np.diff(until_s, prepend=-np.inf)
        same = np.diff(session, prepend=-1) == 0
        hold_s = np.where(same & (gap_s <= LONGEST_HOLD * interval_s), gap_s, interval_s)
        since_s = np.maximum(until_s - hold_s, until_s - gap_s)
        self._held_s = until_s - since_s
        self._first = np.searchsorted(until_s, start_s, "right")
        self._last = np.searchsorted(until_s, end_s, "right")
        since_s = np.append(since_s, np.inf)
        self._before_s = np.maximum(start_s - since_s[self._first], 0.0)
        self._within_s = np.maximum(end_s - since_s[self._last], 0.0)
        stop = np.searchsorted(since_s[:-1], end_s, "left")
        self._there = (stop > self._first) & (end_s > start_s)
        self._spans = np.stack([self._first, np.maximum(stop, self._first)], axis=1).ravel()

    def seconds(self, weights: np.ndarray) -> np.ndarray:
        """The integral of `weights` [samples] over each window."""
        total = np.concatenate([[0.0], np.cumsum(weights * self._held_s)])
        weights = np.append(weights, 0.0)
        inside = weights[self._last] * self._within_s - weights[self._first] * self._before_s
        return np.where(self._there, np.maximum(total[self._last] - total[self._first] + inside, 0.0), 0.0)

    def gauge(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, peak and known seconds of `values` [samples] in each window."""
        known = np.isfinite(values)
        known_s = self.seconds(known.astype(float))
        if not known.any() or not len(known_s):
            nothing = np.full(len(known_s), np.nan)
            return nothing, nothing, known_s
        integral = self.seconds(np.where(known, values, 0.0))
        low, high = (
            reduce.reduceat(np.append(np.where(known, values, worst), worst), self._spans)[::2]
            for reduce, worst in ((np.minimum, np.inf), (np.maximum, -np.inf))
        )
        there = self._there & (known_s > 0) & np.isfinite(high)
        mean = np.clip(_ratio(integral, np.where(there, known_s, 0.0)), low, high)  # what rounding made of it
        return mean, np.where(there, high, np.nan), known_s


class _Counter:
    """A counter that only grows, at the samples that know it.

    valid, grown: of the span between each sample and the next, whether it is known, and the increase. A counter
    that fell was reset, unless (`wraps`) it can have wrapped at 2**32 or 2**64 within the time.
    """

    def __init__(self, series: Series, name: str, interval_s: np.ndarray, wraps: bool = False) -> None:
        values, known = series.integers[name]
        self.time_s, values, interval_s = series.time_s[known], values[known], interval_s[known]
        passed_s = np.diff(self.time_s)
        self.same_session = np.diff(series.session[known]) == 0
        fell = values[1:] < values[:-1]
        wrapped = values[1:] - values[:-1]  # of uint64: modulo 2**64
        in_32 = fell & (values[:-1] < 2**32)
        wrapped[in_32] += np.uint64(2**32)
        most = MOST_POWER_W * 1e3 * passed_s
        is_known = ~fell | (wraps & (wrapped <= most))
        self.grown = np.where(is_known, wrapped, np.uint64(0)).astype(float)
        self.valid = is_known & self.same_session & (passed_s <= LONGEST_HOLD * interval_s[1:])

    def between(self, start_s: np.ndarray, end_s: np.ndarray, stepwise: bool) -> np.ndarray:
        """Growth in each window, NaN where one of its spans is unknown; linear within a span, or at its end."""
        last = len(self.time_s) - 1
        before = np.searchsorted(self.time_s, start_s, "right") - 1
        after = np.searchsorted(self.time_s, end_s, "left")
        unknown = np.concatenate([[0], np.cumsum(~self.valid)])
        total = np.concatenate([[0.0], np.cumsum(np.where(self.valid, self.grown, 0.0))])
        inside = (before >= 0) & (after <= last) & (end_s > start_s)
        if not inside.any():
            return np.full(len(inside), np.nan)
        inside &= unknown[np.clip(after, 0, last)] == unknown[np.clip(before, 0, last)]
        if stepwise:
            at_end = np.clip(np.searchsorted(self.time_s, end_s, "right") - 1, 0, last)
            growth = total[at_end] - total[np.clip(before, 0, last)]
        else:
            growth = np.interp(end_s, self.time_s, total) - np.interp(start_s, self.time_s, total)
        return np.where(inside, np.maximum(growth, 0.0), np.nan)


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.full(len(under), np.nan), where=under > 0)
