"""What devices and hosts did, and the energy, over workers: a chart a counter that at least one run knows."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from scaling.chart_curves import curves
from scaling.charts import LOOKS, Chart, dodged, grid, legend_below, worker_axis
from scaling.wording import recipe_name, slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COUNTERS = {
    "gpu_busy_percent": "GPU busy, %",
    "tensor_active_percent": "tensor cores active, %",
    "energy_per_sample_j": "energy a sample, J",
    "host_cpu_percent": "host CPU, % of all cores",
}
"""A GPU is busy while any kernel runs; tensor cores tell how hard it works."""


def usage_charts(
    cases: Sequence[Mapping[str, Any]], usage: Mapping[str, Mapping[str, Any]], recipe: str, scaling: str
) -> list[Chart]:
    """usage: for each case's name its counters, None where unknown."""
    name, charts = recipe_name(recipe), []
    for counter, title in COUNTERS.items():
        points = [{**case, counter: usage[case["name"]].get(counter)} for case in cases]
        if not any(point[counter] is not None for point in points):
            continue
        charts.append(
            Chart(
                slug(name, scaling, counter.replace("_", "-")),
                f"{name}, {scaling}: {title}",
                f"{title[0].upper()}{title[1:]} over workers, {scaling} scaling of {name}: means over the runs.",
                partial(_draw, points, counter, title),
                height_in=2.7,
            )
        )
    return charts


def _draw(points: Sequence[Mapping[str, Any]], counter: str, title: str, axes: "Axes") -> None:
    lines = curves(points, counter)
    known = [case["workers"] for _, _, cases in lines for case in cases]
    for place, (strategy, several, cases) in enumerate(lines):
        counts = dodged([case["workers"] for case in cases], place, len(lines), known)
        label = f"{strategy}, several nodes" if several else strategy
        axes.plot(counts, [case[counter] for case in cases], label=label, **LOOKS[strategy])
    worker_axis(axes, known)
    most = max(case[counter] for _, _, cases in lines for case in cases)
    axes.set_ylim(0, 105 if "%" in title else 1.1 * most or 1.0)
    grid(axes)
    legend_below(axes)
