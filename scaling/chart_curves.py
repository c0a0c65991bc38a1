"""Efficiency and speed-up over workers, each strategy a line with its intervals, beside the ideal."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.charts import FAINT, LOOKS, Chart, dodged, grid, legend_below, worker_axis
from scaling.laws import LAWS
from scaling.wording import STRATEGIES, recipe_name, slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Case = Mapping[str, Any]
"""An entry of "cases" of analysis.json."""
Line = tuple[str, bool, list[Case]]
"""A strategy, whether on several nodes, and its cases by workers."""


def curves(cases: Sequence[Case], figure: str) -> list[Line]:
    """The lines of a chart: a strategy's cases on one node, and those on several."""
    known = sorted((case for case in cases if case[figure]), key=lambda case: case["workers"])
    lines = []
    for strategy in STRATEGIES:
        for several in (False, True):
            own = [case for case in known if case["strategy"] == strategy and (case["nodes"] > 1) == several]
            if own:
                lines.append((strategy, several, own))
    return lines


def efficiency_chart(cases: Sequence[Case], recipe: str, scaling: str) -> Chart | None:
    """Efficiency in percent; None where no case has one."""
    lines = curves(cases, "efficiency")
    if not lines:
        return None
    name = recipe_name(recipe)
    return Chart(
        slug(name, scaling, "efficiency"),
        f"{name}, {scaling}: efficiency",
        f"Efficiency of each strategy under {scaling} scaling of {name}: throughput over that of as many bases. "
        "The dashed line at 100 % is ideal, bars are 95 % intervals. The axis does not begin at 0.",
        partial(draw_efficiency, lines),
    )


def draw_efficiency(lines: Sequence[Line], axes: "Axes") -> None:
    """Percent over workers."""
    axes.axhline(100, color=FAINT, linestyle=(0, (5, 3)), linewidth=1, label="ideal", zorder=1)
    lowest, highest = draw_lines(lines, "efficiency", 100, axes)
    axes.set_ylim(*around(lowest, highest))
    axes.set_ylabel("efficiency, %")
    grid(axes)
    legend_below(axes)


def around(lowest: float, highest: float) -> tuple[float, float]:
    """Limits for percents: round, with 100 inside, and never so narrow that noise looks large."""
    bottom, top = min(lowest, 80.0), max(highest, 100.0)
    room = (top - bottom) * 0.06
    return max(np.floor((bottom - room) / 5) * 5, 0.0), np.ceil((top + room) / 5) * 5


def speed_up_chart(
    cases: Sequence[Case], fits: Iterable[Mapping[str, Any]], recipe: str, scaling: str
) -> Chart | None:
    """Speed-up over the base, with the scaling law that was fitted; None where no case has one."""
    lines = curves(cases, "speed_up")
    if not lines:
        return None
    name, found = recipe_name(recipe), [fit for fit in fits if fit["law"] == "usl" and fit["parameters"]]
    thin = " Thin lines are the fitted universal scalability law." if found else ""
    return Chart(
        slug(name, scaling, "speed-up"),
        f"{name}, {scaling}: speed-up",
        f"Throughput of each strategy over that of one device without any strategy, {scaling} scaling of {name}. "
        f"The dashed line is ideal: N workers, N times the throughput.{thin}",
        partial(draw_speed_up, lines, found, scaling),
    )


def draw_speed_up(
    lines: Sequence[Line], fits: Sequence[Mapping[str, Any]], scaling: str, axes: "Axes"
) -> None:
    """Both axes logarithmic: linear scaling is a straight line."""
    counts = sorted({case["workers"] for _, _, cases in lines for case in cases})
    axes.plot(counts, counts, color=FAINT, linestyle=(0, (5, 3)), linewidth=1, label="ideal", zorder=1)
    draw_lines(lines, "speed_up", 1, axes)
    law = next(law for law in LAWS[scaling] if law.name == "usl")
    dense = np.geomspace(1, max(counts), 60)
    for fit in fits:
        values = [fit["parameters"][name]["value"] for name in law.parameters]
        color = LOOKS[fit["strategy"]]["color"]
        axes.plot(dense, law.speed_up(dense, *values), color=color, linewidth=0.8, zorder=1)
    axes.set_yscale("log", base=2)
    axes.set_yticks(counts, [f"{count}x" for count in counts])
    axes.set_yticks([], minor=True)
    axes.set_ylabel("speed-up over one device")
    grid(axes, "both")
    legend_below(axes)


def draw_lines(lines: Sequence[Line], figure: str, scale: float, axes: "Axes") -> tuple[float, float]:
    """Each line with its marks and intervals. Returns the lowest and the highest value of them all."""
    ends, counts = [], [case["workers"] for _, _, cases in lines for case in cases]
    for place, (strategy, several, cases) in enumerate(lines):
        found = [case[figure] for case in cases]
        values = np.array([one["value"] for one in found]) * scale
        low, high = (
            np.array([one["value"] if one[end] is None else one[end] for one in found]) * scale
            for end in ("low", "high")
        )
        look = dict(LOOKS[strategy])
        if several:
            look["markerfacecolor"] = "none"
        axes.errorbar(
            dodged([case["workers"] for case in cases], place, len(lines), counts),
            values,
            yerr=np.stack([np.maximum(values - low, 0), np.maximum(high - values, 0)]),
            capsize=2.5,
            elinewidth=1.1,
            linewidth=1.3,
            label=f"{strategy}, several nodes" if several else strategy,
            **look,
        )
        ends += [low.min(), high.max(), values.min(), values.max()]
    worker_axis(axes, counts)
    return float(min(ends)), float(max(ends))
