"""What a study measured, as a prediction starts from it: the cases of measured.json (scaling/measured.py reads it)."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from scaling.cases import Case, usable
from scaling.records import Record


def measurements(
    cases: Iterable[Case], links: Mapping[str, Any] = MappingProxyType({})
) -> list[dict[str, Any]]:
    """One entry a curve (recipe, way of scaling, strategy): a worker's compute, and steps; a median a repetition each.

    `compute_s` is the slowest rank's without exchange, on the fewest workers that ran so (`compute_workers`), or the
    base's where none did; global_batch, accumulation and recipe_values are those of the same runs. Oversubscribed cases
    and curves without a usable base are left out. links: of a strategy, as scaling/link_probes.py measured them.
    """
    curves: dict[tuple[str, str, str], list[Case]] = {}
    for case in sorted(cases, key=lambda case: (case.workers, case.nodes)):
        if not case.oversubscribed and usable(case.base):
            curves.setdefault(case.curve, []).append(case)
    return [{**_entry(points), "links": links.get(points[0].strategy)} for points in curves.values()]


def _entry(points: list[Case]) -> dict[str, Any]:
    first = points[0]
    computing = next((found for case in points if (found := usable(case.alone))), usable(first.base))
    steps: dict[str, list[float | None]] = {"1": [run.step_s for run in usable(first.base)]}
    for case in points:
        if case.workers > 1 and usable(case.runs):
            # On the fewest nodes, where the same number of workers ran on several.
            steps.setdefault(str(case.workers), [run.step_s for run in usable(case.runs)])
    spread = [case for case in points if case.nodes > 1]
    return {
        "recipe": first.recipe,
        "recipe_values": computing[0].fingerprint["recipe"],
        "strategy": first.strategy,
        "scaling": first.scaling,
        "global_batch": computing[0].global_batch,
        "compute_workers": computing[0].workers,
        "accumulation": computing[0].fingerprint.get("accumulation", 1),
        "compute_s": [_compute_s(run) for run in computing],
        "steps": steps,
        "workers_per_node": spread[-1].workers // spread[-1].nodes if spread else None,
    }


def _compute_s(run: Record) -> float:
    """The median over the windows of the slowest rank's step, less its own waiting for data."""
    return float(np.median((run.steady_step_time_s - run.steady_data_time_s).max(axis=0)))
