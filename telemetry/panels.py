"""Drawings of one host's samples over time: a panel a quantity, for a page (SVG each) and a picture (PNG, all)."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from telemetry.drawing import (
    IDLE_COLOR,
    MOST_POINTS_IN_LANE,
    STYLE,
    Trace,
    draw_lanes,
    draw_lines,
    draw_nothing,
    draw_states,
    page_svg,
)
from telemetry.series import Gpu, Host

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CSS_COLORS = {"#0072b2": "#56b4e9", IDLE_COLOR: "#6b6b6b"}
"""Colours that are too dark or too bright for a dark page, and what stands in for them there."""
MOST_LINES = 4
"""Up to so many GPUs share a panel's axes; of more, each has its own lane."""
WIDTH_IN, PANEL_IN, LANE_IN = 6.4, 1.75, 0.17


@dataclass(frozen=True)
class Panel:
    title: str
    height_in: float
    draw: Callable[["Axes"], None]


def svgs(host: Host) -> Iterator[str]:
    """An <svg> a panel, of the page's own text colour on no background."""
    for panel in panels(host):
        with rc_context(STYLE):
            figure = Figure(figsize=(WIDTH_IN, panel.height_in), layout="constrained")
            _fill(figure.add_subplot(), panel, host)
            svg = page_svg(figure, CSS_COLORS, f'role="img" aria-label="{panel.title}"')
        yield svg


def write_png(host: Host, path: Path) -> None:
    """All panels, two beside each other."""
    drawings = panels(host)
    pairs = list(zip_longest(drawings[::2], drawings[1::2]))
    heights = [max(panel.height_in for panel in pair if panel) for pair in pairs]
    with rc_context(STYLE):
        figure = Figure(figsize=(2 * WIDTH_IN, sum(heights) + 0.4), layout="constrained")
        figure.suptitle(
            f"{host.starts[0]['host']}, {host.duration_s:.0f} s", x=0.01, ha="left", weight="bold"
        )
        table = figure.subplots(len(pairs), 2, squeeze=False, height_ratios=heights)
        for pair, row in zip(pairs, table, strict=True):
            for panel, axes in zip(pair, row, strict=True):
                if panel is None:
                    axes.set_axis_off()
                else:
                    _fill(axes, panel, host)
        figure.savefig(path, dpi=120)


def panels(host: Host) -> list[Panel]:
    """What there is to draw of this host."""
    found: list[Panel] = []
    if host.gpus:
        is_long = any(len(gpu.line.time_s) > MOST_POINTS_IN_LANE for gpu in host.gpus)
        title = "GPU state" + (" (height: share of the time)" if is_long else "")
        found.append(Panel(title, 1.1 + LANE_IN * len(host.gpus), partial(draw_states, host.gpus)))
    for title, counter, divisor, top in (
        ("GPU busy, %", "utilization_percent", 1, 100),
        ("SM active, %", "sm_active_percent", 1, 100),
        ("Tensor cores active, %", "tensor_active_percent", 1, 100),
        ("Power, W", "power_mw", 1e3, None),
        ("GPU memory, GiB", "memory_used_bytes", 2**30, None),
        ("SM clock, MHz", "sm_clock_mhz", 1, None),
        ("Memory clock, MHz", "memory_clock_mhz", 1, None),
        ("Temperature, °C", "temperature_c", 1, None),
    ):
        limits = {"power_mw": "power_limit_mw", "memory_used_bytes": "memory_total_bytes"}
        traces = [
            Trace(
                gpu.label,
                gpu.line,
                gpu.line.values[counter] / divisor,
                _limit(gpu, limits.get(counter), divisor),
            )
            for gpu in host.gpus
        ]
        if traces:
            found.append(_panel(title, traces, top))
    values, memory_gib = host.line.values, host.starts[-1]["memory_total_bytes"] / 2**30
    rx, tx = (values[f"network_{way}_kib_s"] / 1024 for way in ("rx", "tx"))
    found += [
        _panel("Host CPU, % of all cores", [Trace("CPU", host.line, values["cpu_percent"])], 100),
        _panel(
            "Host memory, GiB", [Trace("used", host.line, values["memory_used_bytes"] / 2**30, memory_gib)]
        ),
        _panel("Network, MiB/s", [Trace("in", host.line, rx), Trace("out", host.line, tx)]),
    ]
    return found


def _limit(gpu: Gpu, name: str | None, divisor: float) -> float | None:
    limit = getattr(gpu, name) if name else None
    return None if limit is None else limit / divisor


def _panel(title: str, traces: list[Trace], top: float | None = None) -> Panel:
    known = [trace for trace in traces if np.isfinite(trace.values).any()]
    if not known:
        return Panel(title, 0.85, draw_nothing)
    if top is None:
        peaks = [float(np.nanmax(trace.values)) for trace in known]
        top = max([*peaks, *(trace.limit for trace in known if trace.limit)]) or 1.0
    if len(traces) > MOST_LINES:
        return Panel(
            f"{title} (a lane: 0 to {top:.0f})",
            0.75 + LANE_IN * 1.3 * len(traces),
            partial(draw_lanes, traces, top),
        )
    return Panel(title, PANEL_IN, partial(draw_lines, traces, top))


def _fill(axes: "Axes", panel: Panel, host: Host) -> None:
    """Draw a panel with its title and the axis of time."""
    axes.set_title(panel.title)
    panel.draw(axes)
    end_s = max(host.duration_s, 1e-3)
    unit, second = next(
        pair for pair in (("h", 3600), ("min", 60), ("s", 1)) if end_s >= 3 * pair[1] or pair[1] == 1
    )
    axes.set_xlim(0, end_s)
    step_s = second * _round_step(end_s / second / 6)
    axes.set_xticks(
        ticks := np.arange(0, end_s + step_s * 1e-6, step_s), [f"{tick / second:g}" for tick in ticks]
    )
    axes.set_xlabel(f"time since start, {unit}", loc="right", fontsize=9, labelpad=0)
    axes.tick_params(labelsize=9)


def _round_step(least: float) -> float:
    """1, 2 or 5 times a power of ten, and no less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))
