"""prediction.json as scaling.predict leaves it: predicted efficiency beside what was measured, and its table."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.chart_curves import around, curves, draw_lines
from scaling.charts import FAINT, LOOKS, Chart, grid, legend_below, worker_axis
from scaling.wording import recipe_name, slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Case = Mapping[str, Any]


def read_predictions(study_dir: Path) -> list[Case]:
    """The cases of STUDY_DIR/prediction.json; empty where there is none that can be read."""
    try:
        return json.loads((study_dir / "prediction.json").read_bytes())["cases"]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def prediction_charts(predicted: Sequence[Case], cases: Sequence[Case]) -> list[Chart]:
    """A chart each recipe and way of scaling that was predicted."""
    charts = []
    for recipe, scaling in dict.fromkeys((case["recipe"], case["scaling"]) for case in predicted):
        mine = [case for case in predicted if (case["recipe"], case["scaling"]) == (recipe, scaling)]
        measured = [
            case
            for case in cases
            if (recipe_name(case["recipe"]), case["scaling"]) == (recipe_name(recipe), scaling)
        ]
        name = recipe_name(recipe)
        charts.append(
            Chart(
                slug(name, scaling, "prediction"),
                f"{name}, {scaling}: predicted",
                f"Efficiency that scaling.predict expects of {name} under {scaling} scaling (hollow marks, with 95 % "
                "intervals) beside what was measured (full marks).",
                partial(_draw, mine, measured),
            )
        )
    return charts


def _draw(predicted: Sequence[Case], measured: Sequence[Case], axes: "Axes") -> None:
    axes.axhline(100, color=FAINT, linestyle=(0, (5, 3)), linewidth=1, zorder=1)
    lines, ends = curves(measured, "efficiency"), [100.0]
    if lines:
        ends += draw_lines(lines, "efficiency", 100, axes)
    counts = [case["workers"] for _, _, own in lines for case in own]
    for case in predicted:
        points = case["predictions"]
        values = np.array([one["efficiency"] for one in points]) * 100
        bounds = np.array([one["efficiency_interval"] for one in points]).reshape(-1, 2).T * 100
        look = {**LOOKS[case["strategy"]], "linestyle": ":", "markerfacecolor": "none"}
        workers = [one["workers"] for one in points]
        error = np.maximum(np.stack([values - bounds[0], bounds[1] - values]), 0)
        axes.errorbar(
            workers, values, yerr=error, capsize=2.5, label=f"{case['strategy']}, predicted", **look
        )
        ends += [*bounds[0], *bounds[1]]
        counts += workers
    worker_axis(axes, counts)
    axes.set_ylim(*around(min(ends), max(ends)))
    axes.set_ylabel("efficiency, %")
    grid(axes)
    legend_below(axes, columns=2)


def prediction_rows(predicted: Sequence[Case]) -> list[dict[str, str]]:
    """A row a case and number of workers."""
    rows = []
    for case in predicted:
        for one in case["predictions"]:
            step_s, (step_low_s, step_high_s) = one["step"]["step_s"], one["step_interval_s"]
            low, high = one["efficiency_interval"]
            rows.append(
                {
                    "recipe": recipe_name(case["recipe"]),
                    "scaling": case["scaling"],
                    "strategy": case["strategy"],
                    "workers": str(one["workers"]),
                    "step": f"{step_s * 1e3:.4g} ms [{step_low_s * 1e3:.4g}, {step_high_s * 1e3:.4g}]",
                    "efficiency": f"{one['efficiency'] * 100:.1f} % [{low * 100:.1f}, {high * 100:.1f}]",
                    "bottleneck": one["bottleneck"],
                }
            )
    return rows
