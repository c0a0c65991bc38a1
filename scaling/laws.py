"""Scaling laws, fitted to speed-ups. A speed-up S(N) is throughput over the base's throughput, for weak scaling too.

    amdahl     strong scaling   S = 1 / ((1 - p) + p / N)                        p: parallel fraction of the base's step
    gustafson  weak scaling     S = N - s (N - 1)                                s: serial fraction of N workers' step
    usl        both             S = N / (1 + sigma (N - 1) + kappa N (N - 1))    sigma: contention, kappa: coherency

Amdahl, AFIPS 1967; Gustafson, Reevaluating Amdahl's Law, CACM 31(5), 1988; Gunther, Guerrilla Capacity Planning, 2007,
chapters 4 to 6 (the universal scalability law). For weak scaling it describes throughput as Gunther has it: N times
the load on N workers. The base is measured, so S(1) = 1 is no free parameter, and counts of one worker say nothing.

Each law is linear in its parameters once it is written for 1 / S, S or N / S, and noise of a step time is relative. So
the parameters are those with the least squares of that side's relative error, within their bounds: a convex problem
with one answer and no starting point (scipy.optimize.lsq_linear). Intervals come from fitting all bootstrap replicas of
the speed-ups, the base's among them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from scaling.statistics import Estimate, estimate


@dataclass(frozen=True)
class Law:
    """Every parameter lies between 0 and 1.

    speed_up(N, *parameters): S for an array N [counts].
    equations(N, S): a matrix [counts, parameters] and a vector [counts]; their difference is the relative error.
    """

    name: str
    parameters: tuple[str, ...]
    speed_up: Callable[..., np.ndarray]
    equations: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def amdahl(workers: np.ndarray, parallel_fraction: float) -> np.ndarray:
    """S(N) of Amdahl's law."""
    return 1 / ((1 - parallel_fraction) + parallel_fraction / workers)


def gustafson(workers: np.ndarray, serial_fraction: float) -> np.ndarray:
    """S(N) of Gustafson's law."""
    return workers - serial_fraction * (workers - 1)


def usl(workers: np.ndarray, contention: float, coherency: float) -> np.ndarray:
    """S(N) of the universal scalability law."""
    return workers / (1 + contention * (workers - 1) + coherency * workers * (workers - 1))


def _amdahl_equations(workers: np.ndarray, speed_up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """S (1 - p (1 - 1 / N)) = 1"""
    return (speed_up * (1 - 1 / workers))[:, None], speed_up - 1


def _gustafson_equations(workers: np.ndarray, speed_up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N - s (N - 1)) / S = 1"""
    return ((workers - 1) / speed_up)[:, None], workers / speed_up - 1


def _usl_equations(workers: np.ndarray, speed_up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """S / N (1 + sigma (N - 1) + kappa N (N - 1)) = 1"""
    contention = speed_up / workers * (workers - 1)
    return np.stack([contention, contention * workers], axis=1), 1 - speed_up / workers


AMDAHL = Law("amdahl", ("parallel_fraction",), amdahl, _amdahl_equations)
GUSTAFSON = Law("gustafson", ("serial_fraction",), gustafson, _gustafson_equations)
USL = Law("usl", ("contention", "coherency"), usl, _usl_equations)
LAWS: Mapping[str, tuple[Law, ...]] = {"strong": (AMDAHL, USL), "weak": (GUSTAFSON, USL)}


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    parameters: None where it is undetermined, and then `reason` says why.
    residual: root mean square of fitted over measured speed-up, minus 1. worker_counts: what was fitted to.
    """

    law: str
    worker_counts: tuple[int, ...]
    parameters: Mapping[str, Estimate] | None
    residual: float | None
    reason: str | None = None

    def as_json(self) -> dict:
        """For analysis.json."""
        found = None
        if self.parameters is not None:
            found = {name: value.as_json() for name, value in self.parameters.items()}
        return {
            "law": self.law,
            "worker_counts": list(self.worker_counts),
            "parameters": found,
            "residual": self.residual,
            "reason": self.reason,
        }


def fit(law: Law, workers: list[int], speed_ups: list[np.ndarray], repetitions: int) -> Fit:
    """Fit a law to the sampled speed-ups [1 + resamples] at these worker counts; `repetitions`: the fewest of them.

    It is undetermined with fewer distinct counts above 1 than parameters + 1: as many would fit without any residual.
    """
    kept = [(count, sampled) for count, sampled in zip(workers, speed_ups, strict=True) if count > 1]
    counts = tuple(sorted({count for count, _ in kept}))
    needed = len(law.parameters) + 1
    if len(counts) < needed:
        listed = ", ".join(map(str, counts)) or "none"
        reason = f"undetermined: found {listed}, expected at least {needed} worker counts above 1"
        return Fit(law.name, counts, None, None, reason)
    size = np.array([count for count, _ in kept], float)
    sampled = np.stack([sampled for _, sampled in kept])
    fitted = np.stack([_parameters(law, size, speed_up) for speed_up in sampled.T], axis=1)
    found = {name: estimate(values, repetitions) for name, values in zip(law.parameters, fitted, strict=True)}
    misses = law.speed_up(size, *fitted[:, 0]) / sampled[:, 0] - 1
    return Fit(law.name, counts, found, float(np.sqrt(np.mean(misses**2))))


def _parameters(law: Law, workers: np.ndarray, speed_up: np.ndarray) -> np.ndarray:
    """The parameters [parameters] that come closest."""
    # Half a second to import, which whoever only reads an analysis need not wait for.
    from scipy.optimize import lsq_linear  # type: ignore[import-untyped]  # no stubs are installed

    return lsq_linear(*law.equations(workers, speed_up), bounds=(0, 1), method="bvls").x
