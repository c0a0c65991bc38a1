"""What a panel shows, drawn on matplotlib's axes: the states of GPUs, lines, or a lane a GPU."""

import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Patch

from telemetry.series import THROTTLE_REASONS, Gpu, Line, drawn

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"
"""Text and axes; a page puts its own text colour there."""
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
IDLE_COLOR = "#b3b3b3"
STATES = {
    "idle": (IDLE_COLOR, ""),
    "sw_power_cap": ("#e69f00", ""),
    "sw_thermal_slowdown": ("#f0e442", ""),
    "hw_slowdown": ("#56b4e9", "////"),
    "hw_power_brake_slowdown": ("#e69f00", "xxxx"),
    "hw_thermal_slowdown": ("#d55e00", "////"),
}
"""Colour and hatch. Colours are of Okabe and Ito's "Color Universal Design" (2008), which most eyes tell apart."""
MOST_POINTS, MOST_POINTS_IN_LANE = 2000, 400
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "trimaran",
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 1.3,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.0,
    "lines.linewidth": 1.3,
}


@dataclass(frozen=True)
class Trace:
    """Values to draw against the time of `line`, already in the panel's unit; limit: a line that they stay below."""

    label: str
    line: Line
    values: np.ndarray
    limit: float | None = None


def draw_states(gpus: list[Gpu], axes: "Axes") -> None:
    shown: set[str] = set()
    for lane, gpu in enumerate(gpus):
        reasons = {name: gpu.has_reason(bit) for bit, name in reversed(THROTTLE_REASONS.items())}
        for name, where in ({"idle": gpu.idle()} | reasons).items():  # the most telling last, on top
            if where.any():
                shown.add(name)
                _draw_state(gpu.line, where, name, lane, axes)
        for left, right in gpu.line.spans(np.ones(len(gpu.line.time_s), bool)):  # what was sampled
            axes.plot([left, right], [lane + 0.9, lane + 0.9], color=INK, linewidth=0.6)
        if gpu.lost is not None:
            axes.plot(gpu.lost[0], lane + 0.5, "x", color=INK, markersize=7, clip_on=False)
        if not gpu.line.known("clocks_event_reasons") and not gpu.line.known("utilization_percent"):
            axes.text(0.5, lane + 0.5, "n/a", transform=axes.get_yaxis_transform(), ha="center", va="center")
    handles: list[Artist] = [
        Patch(facecolor=color, hatch=hatch, edgecolor=INK, linewidth=0, label=name.replace("_", " "))
        for name, (color, hatch) in STATES.items()
        if name in shown
    ]
    if any(gpu.lost for gpu in gpus):
        handles += axes.plot([], [], "x", color=INK, label="lost")
    if handles:
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.1)
        axes.set_title(axes.get_title("left"), pad=8 + 14 * math.ceil(len(handles) / 3))
    else:
        axes.set_title("neither idle nor throttled", loc="right", fontsize=9)
    _label_lanes(axes, [gpu.label for gpu in gpus])


def _draw_state(line: Line, where: np.ndarray, name: str, lane: int, axes: "Axes") -> None:
    """Spans; where there are too many samples to draw each, the share of the time, at least a quarter high."""
    color, hatch = STATES[name]
    look: dict[str, Any] = {"facecolor": color, "hatch": hatch, "edgecolor": INK, "linewidth": 0}
    if len(where) <= MOST_POINTS_IN_LANE:
        spans = [(left, right - left) for left, right in line.spans(where)]
        axes.broken_barh(spans, (lane + 0.1, 0.8), **look)
        return
    edges_s, share = line.share(where, MOST_POINTS_IN_LANE)
    high = np.append(np.where(share > 0, np.clip(share, 0.25, 1), 0), 0)
    bars = (high > 0) | (np.roll(high, 1) > 0)
    axes.fill_between(edges_s, lane + 0.9, lane + 0.9 - 0.8 * high, bars, step="post", **look)


def draw_lines(traces: list[Trace], top: float, axes: "Axes") -> None:
    limits = {trace.limit for trace in traces if trace.limit is not None}
    for limit in limits:
        axes.axhline(limit, color=INK, linewidth=0.8, linestyle=(0, (5, 3)), alpha=0.6)
    if limits:
        axes.plot([], [], color=INK, linewidth=0.8, linestyle=(0, (5, 3)), alpha=0.6, label="limit")
    for trace, color in zip(traces, COLORS, strict=False):
        if not np.isfinite(trace.values).any():
            axes.plot([], [], " ", label=f"{trace.label}: n/a")
            continue
        time_s, low, mean, high = drawn(trace.line, trace.values, MOST_POINTS)
        if len(trace.values) > MOST_POINTS:
            axes.fill_between(time_s, low, high, color=color, alpha=0.25, linewidth=0)
        axes.plot(time_s, mean, color=color, label=trace.label)
        alone = _alone(mean)
        axes.plot(time_s[alone], mean[alone], ".", color=color, markersize=3)
    axes.set_ylim(0, top * 1.05)
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
    if len(traces) > 1 or limits:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=6, borderaxespad=0.1)


def draw_lanes(traces: list[Trace], top: float, axes: "Axes") -> None:
    for lane, trace in enumerate(traces):
        floor = lane + 1.0  # lanes count downwards
        if not np.isfinite(trace.values).any():
            axes.text(
                0.5,
                lane + 0.55,
                "n/a",
                transform=axes.get_yaxis_transform(),
                ha="center",
                va="center",
                fontsize=8,
            )
            continue
        time_s, _, mean, high = drawn(trace.line, trace.values, MOST_POINTS_IN_LANE)
        scaled = floor - 0.88 * mean / top
        if len(trace.values) > MOST_POINTS_IN_LANE:
            axes.fill_between(
                time_s, floor, floor - 0.88 * high / top, color=COLORS[0], alpha=0.3, linewidth=0
            )
        axes.fill_between(time_s, floor, scaled, color=COLORS[0], alpha=0.45, linewidth=0)
        axes.plot(time_s, scaled, color=COLORS[0], linewidth=0.8)
        alone = _alone(mean)
        axes.plot(time_s[alone], scaled[alone], ".", color=COLORS[0], markersize=2.5)
    for lane in range(1, len(traces)):
        axes.axhline(lane, color=INK, alpha=0.2, linewidth=0.5)
    _label_lanes(axes, [trace.label for trace in traces])


def draw_nothing(axes: "Axes") -> None:
    axes.text(0.5, 0.5, "n/a: not offered here", transform=axes.transAxes, ha="center", va="center")
    axes.set_yticks([])


def _label_lanes(axes: "Axes", labels: list[str]) -> None:
    axes.set_ylim(len(labels), 0)
    axes.set_yticks([lane + 0.5 for lane in range(len(labels))], labels)
    axes.tick_params(axis="y", length=0)


def _alone(values: np.ndarray) -> np.ndarray:
    """bool [points]: no line leads to this one, which needs a dot to be seen."""
    there = np.pad(np.isfinite(values), 1)
    return there[1:-1] & ~there[:-2] & ~there[2:]


def page_svg(figure: "Figure", css_colors: Iterable[str], attributes: str) -> str:
    """The figure as an <svg> with these attributes: in the page's own text colour, on no background, of any size.

    Each of `css_colors` (#rrggbb) becomes a variable of the page's (--rrggbb).
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", file.getvalue(), flags=re.DOTALL)
    svg = re.sub(r"(\.\d\d)\d{4}\b", r"\1", svg)  # a hundredth of a point is fine enough
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    for color in css_colors:
        svg = svg.replace(color, f"var(--{color[1:]})")
    head, rest = svg.split(">", 1)
    head = re.sub(r' width="[\d.]+pt"| height="[\d.]+pt"', "", head)
    return f"{head} {attributes}>{rest}"


def with_own_ids(svg: str, prefix: str) -> str:
    """The ids of a drawing begin with `prefix`: several stand in one page, where an id may be given once."""
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
