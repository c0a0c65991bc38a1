"""What all charts of a report share: colours, marks, and how a chart becomes an <svg> of a page or part of a PNG.

Colours are of Okabe and Ito's "Color Universal Design" (2008). Each strategy has one colour and one mark, each part of
a step one grey or colour and one hatch, in every chart: none is told by its colour alone.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telemetry.drawing import INK, page_svg, with_own_ids
from telemetry.drawing import STYLE as TELEMETRY_STYLE

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN = 5.3
BELOW_IN = 0.46
"""From the axes to a legend below: room for ticks and the axis' name."""
FAINT = "#8c8c8d"
"""Lines that are no measurement, and unreachable ideals."""
LOOKS: dict[str, dict[str, Any]] = {
    "torch-single": {"color": INK, "marker": "o", "linestyle": ":"},
    "torch-ddp": {"color": "#0072b2", "marker": "o", "linestyle": "-"},
    "torch-horovod": {"color": "#56b4e9", "marker": "s", "linestyle": "--"},
    "tf-single": {"color": FAINT, "marker": "^", "linestyle": ":"},
    "tf-mirrored": {"color": "#d55e00", "marker": "^", "linestyle": "-"},
    "tf-horovod": {"color": "#e69f00", "marker": "D", "linestyle": "--"},
}
PART_LOOKS: dict[str, dict[str, Any]] = {
    "compute": {"facecolor": "#c9c9ca", "hatch": ""},
    "slower compute": {"facecolor": "#c9c9ca", "hatch": "////"},
    "data": {"facecolor": "#f0e442", "hatch": "...."},
    "stragglers": {"facecolor": "#009e73", "hatch": "\\\\\\\\"},
    "exchange": {"facecolor": "#cc79a7", "hatch": "xxxx"},
    "rest": {"facecolor": "none", "hatch": "----"},
}
DARK = {
    "#0072b2": "#3f9fe0",
    "#56b4e9": "#a5d8f7",
    "#d55e00": "#f07a2a",
    "#e69f00": "#f2b632",
    "#c9c9ca": "#6f757d",
    FAINT: "#9aa0a7",
}
"""What stands in for colours that are too dark, or too bright, on a dark page."""
STYLE: dict[Any, Any] = {
    **TELEMETRY_STYLE,
    "hatch.linewidth": 0.6,
    "axes.titleweight": "bold",
    "lines.markersize": 5.5,
}


@dataclass(frozen=True)
class Chart:
    """One pair of axes. `name`: of its file or id, `text`: what it shows, for who cannot see it and for a caption."""

    name: str
    title: str
    text: str
    draw: Callable[["Axes"], None]
    height_in: float = 3.3


def svg(chart: Chart) -> str:
    """An <svg> of the page's own text colour on no background; its ids begin with the chart's name."""
    with _style():
        figure = _figure(WIDTH_IN, chart.height_in)
        _fill(figure.add_subplot(), chart)
        drawing = page_svg(figure, DARK, f'role="img" aria-labelledby="{chart.name}-caption"')
    return with_own_ids(drawing, chart.name)


def write_png(charts: Sequence[Chart], path: Path, columns: int = 2) -> None:
    """All of them in rows, on white."""
    columns = min(columns, len(charts))
    rows = list(zip_longest(*(charts[start::columns] for start in range(columns))))
    heights = [max(chart.height_in for chart in row if chart) for row in rows]
    with _style():
        figure = _figure(columns * WIDTH_IN, sum(heights))
        grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
        for row, places in zip(rows, grid, strict=True):
            for chart, axes in zip(row, places, strict=True):
                if chart is None:
                    axes.set_axis_off()
                else:
                    _fill(axes, chart)
        figure.savefig(path, dpi=110)


def _style() -> Any:
    from matplotlib import rc_context

    return rc_context(STYLE)


def _figure(width_in: float, height_in: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def _fill(axes: "Axes", chart: Chart) -> None:
    axes.set_title(chart.title)
    chart.draw(axes)


def legend_below(axes: "Axes", columns: int = 3, handles: Sequence["Artist"] = (), left: float = 0.0) -> None:
    """Names under the chart, where they hide no point: of `handles`, else of all lines, the strategies first."""
    from matplotlib.transforms import ScaledTranslation

    found = {str(handle.get_label()): handle for handle in handles}
    if not found:
        lines = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        found = dict(sorted(lines.items(), key=lambda item: item[0].partition(",")[0] not in LOOKS))
    if not found:
        return
    figure = axes.get_figure()
    assert figure is not None
    axes.legend(
        found.values(),
        found.keys(),
        loc="upper left",
        bbox_to_anchor=(left, 0),
        bbox_transform=axes.transAxes + ScaledTranslation(0, -BELOW_IN, figure.dpi_scale_trans),
        ncols=columns,
        borderaxespad=0,
        columnspacing=1.4,
        handlelength=2.4,
    )


def worker_axis(axes: "Axes", counts: Iterable[int], label: str = "workers") -> None:
    """A logarithmic axis with a tick at each count."""
    ticks = sorted(set(counts))
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(min(ticks) / 1.18, max(ticks) * 1.18)
    axes.set_xlabel(label)


def dodged(counts: Sequence[int], place: int, places: int, all_counts: Iterable[int]) -> list[float]:
    """The counts moved aside by a fiftieth of the axis, so that marks of several strategies do not hide each other."""
    known = set(all_counts)
    step = 0.02 * (math.log(max(known) / min(known)) + 0.5)
    return [count * math.exp(step * (place - (places - 1) / 2)) for count in counts]


def grid(axes: "Axes", axis: Any = "y") -> None:
    """Faint lines to read values by."""
    axes.grid(axis=axis, color=INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
