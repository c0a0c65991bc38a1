"""Judge the step model on curves that others published.

    python -m scaling.validate

Of a curve's points the smaller counts, at most half of all, fit two numbers: the computing time of a micro-batch and
its spread from worker to worker. The other points are predicted and compared. Nothing else is fitted
(scaling/published_setups.py). Linear scaling and Amdahl's law get the same points.
"""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from scaling.published import Curve, read_published
from scaling.published_setups import SETUPS, Setup
from scaling.search import closest
from scaling.step_model import Workload, predict_step
from training.options import parse
from training.problems import EXIT_DONE
from training.process import guarded

PROGRAM = "python -m scaling.validate"
FEWEST_POINTS = 4
"""Two numbers are fitted from at most half of the points."""
LAWS = ("step model", "linear", "Amdahl")
Law = Callable[[int], float]
"""Devices to throughput."""


@dataclass(frozen=True)
class Judged:
    """A curve's judged points under one law: {devices: predicted / published - 1}."""

    curve: Curve
    law: str
    errors: dict[int, float]


def split(curve: Curve) -> tuple[dict[int, float], dict[int, float]]:
    """Points to fit (the smaller counts, at most half) and points to judge."""
    points = list(curve.points.items())
    half = len(points) // 2
    return dict(points[:half]), dict(points[half:])


def fit_linear(points: dict[int, float]) -> Law:
    """Throughput in proportion to the devices."""
    (rate,) = _fit(points, lambda p: lambda devices: p[0] * devices, (1.0,))
    return lambda devices: rate * devices


def fit_amdahl(points: dict[int, float]) -> Law:
    """Amdahl's law: n r / (1 + s (n - 1)) with a serial part s of 0 or more."""

    def law(p: Sequence[float]) -> Law:
        return lambda devices: p[0] * devices / (1 + p[1] * (devices - 1))

    return law(_fit(points, law, (1.0, 0.01)))


def fit_step_model(curve: Curve, setup: Setup, points: dict[int, float]) -> Law:
    """The step model with the computing time of a micro-batch and its relative spread fitted.

    Micro-batches vary independently, so the spread of a step grows with the square root of their number.
    """

    def law(p: Sequence[float]) -> Law:
        seconds, spread = setup.micro_batch / p[0], p[1]

        def throughput(devices: int) -> float:
            batch = curve.global_batch or setup.micro_batch * devices
            count = batch / devices / setup.micro_batch
            work = Workload(
                gradients=setup.gradients,
                packing=setup.packing,
                compute_s=seconds * count,
                update_s=setup.update_s,
                jitter_s=seconds * spread * math.sqrt(count),
                micro_batches=count,
            )
            return batch / predict_step(work, devices, setup.topology).step_s

        return throughput

    return law(_fit(points, law, (1.0, 0.01)))


def _fit(
    points: dict[int, float], law: Callable[[Sequence[float]], Law], start: tuple[float, ...]
) -> Sequence[float]:
    """Least squares of the relative errors; all numbers are 0 or more, the first is a rate."""
    devices, throughput = next(iter(points.items()))
    unit = throughput / devices

    def scaled(p: Sequence[float]) -> Sequence[float]:
        return (p[0] * unit, *p[1:])

    def misses(p: Sequence[float]) -> list[float]:
        predict = law(scaled(p))
        return [predict(count) / found - 1 for count, found in points.items()]

    size = len(start)
    return scaled(closest(misses, start, (0.1, *[0.0] * (size - 1)), [10.0] * size))


def judge(curve: Curve) -> list[Judged]:
    """Fit all three laws to the smaller counts of a curve and compare them with the others."""
    known, judged = split(curve)
    laws = {
        "step model": fit_step_model(curve, SETUPS[curve.label](), known),
        "linear": fit_linear(known),
        "Amdahl": fit_amdahl(known),
    }
    return [
        Judged(curve, name, {count: law(count) / found - 1 for count, found in judged.items()})
        for name, law in laws.items()
    ]


def mean_error(results: Iterable[Judged], law: str) -> float:
    """Mean absolute relative error of a law over all judged points."""
    errors = [abs(error) for result in results if result.law == law for error in result.errors.values()]
    return sum(errors) / len(errors)


def judge_all() -> dict[str, list[Judged]]:
    """All curves with a setup and at least `FEWEST_POINTS`, by how they exchange gradients; all-reduces come first."""
    curves = [c for c in read_published() if c.label in SETUPS and len(c.points) >= FEWEST_POINTS]
    found: dict[str, list[Judged]] = {"all-reduce": []}
    for curve in curves:
        found.setdefault(curve.exchange, []).extend(judge(curve))
    return found


HEADER = ("exchange", "curve", "fitted", "judged: step model's error %", *(f"{law} %" for law in LAWS))


def rows(results: dict[str, list[Judged]]) -> list[tuple[str, ...]]:
    """The cells of HEADER for each curve; after those of one exchange a row with the means over their points."""
    cells = []
    for exchange, judged in results.items():
        for model in (result for result in judged if result.law == "step model"):
            same = [result for result in judged if result.curve is model.curve]
            errors = ", ".join(f"{count}: {100 * error:+.1f}" for count, error in model.errors.items())
            fitted = ", ".join(map(str, split(model.curve)[0]))
            cells.append((exchange, model.curve.label, fitted, errors, *_means(same)))
        cells.append((exchange, "mean of all judged points", "", "", *_means(judged)))
    return cells


def _means(results: list[Judged]) -> list[str]:
    return [f"{100 * mean_error(results, law):.1f}" for law in LAWS]


@dataclass
class ValidateOptions:
    """Judge the step model on published curves, beside linear scaling and Amdahl's law."""


def main() -> int:
    """Print the table."""
    from rich.box import MARKDOWN
    from rich.console import Console
    from rich.table import Table

    parse(ValidateOptions, PROGRAM)
    table = Table(*HEADER, box=MARKDOWN)
    for row in rows(judge_all()):
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)
    print("A positive error promises too much. Only all-reduces judge the model; the others are shown.")
    return EXIT_DONE


if __name__ == "__main__":
    raise SystemExit(guarded(main))
