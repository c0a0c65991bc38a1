"""Medians and their bootstrap intervals: what every figure of a study goes through.

A figure starts from repeated runs, and each run from many windows of the same steps. The estimate is the median over
the runs of each run's median over its windows: a slow window moves neither, and a run with more windows counts no more.

Its interval is a hierarchical percentile bootstrap (Davison and Hinkley, Bootstrap Methods and their Application, 1997,
section 3.8; Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13): draw as many runs as there are,
with replacement, then in each as many windows, and take the same medians. Runs are drawn first because windows of one
run share its luck; windows alone would give intervals that are far too short. Hoefler and Belli (Scientific
Benchmarking of Parallel Computing Systems, SC15) ask for such intervals (rule 5) and against averaged ratios (rule 4).

A *sampled* quantity is an array whose first element is the measured value and whose others are its bootstrap replicas.
Arithmetic on such arrays carries the interval along: a speed-up is the ratio of two sampled medians, never a mean
of ratios, and an efficiency is that divided by the workers.
"""

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 1000
SEED = 20150515
MIN_REPETITIONS = 2
"""One run says nothing of how the next will differ."""


@dataclass(frozen=True)
class Estimate:
    """A value and its interval; low and high are None where fewer than two repetitions bear it."""

    value: float
    low: float | None
    high: float | None
    repetitions: int

    def as_json(self) -> dict:
        """For analysis.json."""
        return asdict(self)


def generator(*key: object) -> np.random.Generator:
    """A source of random numbers that depends on `key` alone, not on what was drawn before."""
    return np.random.default_rng([SEED, zlib.crc32(repr(key).encode())])


def sampled_medians(
    repetitions: Sequence[np.ndarray], rng: np.random.Generator, resamples: int = RESAMPLES
) -> np.ndarray:
    """The medians of several columns, sampled jointly: every column sees the same runs and windows.

    repetitions: for each run an array [windows, columns]; runs may differ in their windows.
    Returns [columns, 1 + resamples]. Raises ValueError where there is no run or one has no window.
    """
    if not repetitions or any(len(windows) == 0 for windows in repetitions):
        raise ValueError(
            f"repetitions: found {[len(windows) for windows in repetitions]} windows, expected some in each run"
        )
    count, columns = len(repetitions), repetitions[0].shape[1]
    drawn_runs = rng.integers(count, size=(resamples, count))
    medians = np.empty((resamples, count, columns))
    for index, windows in enumerate(repetitions):
        places = drawn_runs == index
        picks = rng.integers(len(windows), size=(int(places.sum()), len(windows)))
        for column in range(columns):
            medians[places, column] = _row_medians(windows[:, column][picks])
    measured = np.median([np.median(windows, axis=0) for windows in repetitions], axis=0)
    return np.concatenate([measured[None], np.median(medians, axis=1)]).T


def _row_medians(values: np.ndarray) -> np.ndarray:
    """The median of each row [rows, n]. NumPy's own partitions, which takes longer than sorting rows of this size."""
    ordered, count = np.sort(values, axis=1), values.shape[1]
    return (ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2


def estimate(sampled: np.ndarray, repetitions: int) -> Estimate:
    """The measured value and the percentile interval of a sampled quantity [1 + resamples]."""
    low = high = None
    if repetitions >= MIN_REPETITIONS:
        tail = (1 - CONFIDENCE) / 2
        low, high = (float(bound) for bound in np.quantile(sampled[1:], (tail, 1 - tail)))
    return Estimate(float(sampled[0]), low, high, repetitions)


def attainable_confidence(repetitions: int) -> float:
    """The most that an interval for a median can be worth, whatever the method: 1 - 2^(1 - repetitions).

    All runs lie on one side of the true median with probability 2^(1 - repetitions), and no interval within their range
    holds it then. Six runs are the fewest for 95 %.
    """
    return min(CONFIDENCE, 1 - 2.0 ** (1 - repetitions)) if repetitions >= 1 else 0.0
