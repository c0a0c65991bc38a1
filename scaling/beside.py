"""Published curves beside the user's: of the same model, or on like hardware, where there is one.

Where there is none they are shown for orientation, and what differs stands in words beside each.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from scaling.chart_curves import Line, around, curves, draw_lines
from scaling.charts import FAINT, Chart, grid, legend_below
from scaling.published import Curve, read_published
from scaling.wording import recipe_name, slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_SHOWN = 6
MARKS = ("o", "s", "^", "v", "D", "P")
SIZED = {"resnet50": ("resnet", 50), "gpt2-124m": ("gpt", 12)}
"""Published models that a recipe can have: family, and depth or layers."""


@dataclass(frozen=True)
class Ours:
    """What a study measured of one recipe and way of scaling."""

    recipe: str
    scaling: str
    model: Mapping[str, Any]
    device: str
    precision: str
    global_batch: int | None


@dataclass(frozen=True)
class Beside:
    """A published curve and how it compares. efficiency: {devices: part of linear}, against its fewest devices."""

    curve: Curve
    efficiency: Mapping[int, float]
    same_model: bool
    like_hardware: bool
    differs: str

    @property
    def fewest(self) -> int:
        """What its efficiency is measured against."""
        return 1 if self.curve.unit == "efficiency" else min(self.curve.points)


def choose(ours: Ours, published: Sequence[Curve] | None = None) -> list[Beside]:
    """Those of the same model or on like hardware; with none, some all-reduce curves for orientation."""
    found = [_beside(ours, curve) for curve in (read_published() if published is None else published)]
    alike = [one for one in found if one.same_model or one.like_hardware]
    if alike:
        return sorted(alike, key=lambda one: (not one.same_model, not one.like_hardware))[:MOST_SHOWN]
    drawn = [one for one in found if one.efficiency and one.curve.exchange == "all-reduce"]
    other_way = [one for one in drawn if one.curve.scaling != ours.scaling]
    return ([one for one in drawn if one not in other_way] + other_way)[:MOST_SHOWN]


def _beside(ours: Ours, curve: Curve) -> Beside:
    family, depth = SIZED.get(curve.model, (None, None))
    same_model = family is not None and (ours.model.get("family"), _depth(ours.model)) == (family, depth)
    own, theirs = _chip(ours.device), _chip(curve.hardware)
    return Beside(
        curve,
        _efficiency(curve),
        same_model,
        own is not None and own == theirs,
        _differs(ours, curve, same_model),
    )


def _depth(model: Mapping[str, Any]) -> Any:
    if model.get("family") == "resnet":
        return model.get("depth") if (model.get("image_size") or 0) >= 224 else None
    return model.get("num_layers") if model.get("width") == 768 else None


def _chip(hardware: str) -> str | None:
    return next((chip for chip in ("H200", "H100", "A100", "P100", "K80") if chip in hardware), None)


def _efficiency(curve: Curve) -> dict[int, float]:
    if curve.unit == "efficiency":
        return dict(curve.points)
    if len(curve.points) < 2:
        return {}
    fewest = min(curve.points)
    each = curve.points[fewest] / fewest
    return {devices: value / devices / each for devices, value in curve.points.items() if devices > fewest}


def _differs(ours: Ours, curve: Curve, same_model: bool) -> str:
    """Model, hardware and network, batch, precision, exchange and year, as far as they are not the same."""
    batch = (
        f"{curve.batch_per_device} a device"
        if curve.batch_per_device
        else f"{curve.global_batch:,} in all"
        if curve.global_batch
        else "batch not told"
    )
    parts = [] if same_model else [f"another model ({curve.model}, not {recipe_name(ours.recipe)})"]
    parts.append(f"{curve.hardware}, not {ours.device}")
    if curve.scaling != ours.scaling:
        parts.append(f"{curve.scaling} scaling")
    parts.append(f"batch {batch}" + (f", here {ours.global_batch}" if ours.global_batch else ""))
    if curve.precision != ours.precision:
        parts.append(f"{curve.precision}, here {ours.precision}")
    if curve.exchange != "all-reduce":
        parts.append(f"gradients by {curve.exchange}, not all-reduce")
    year = re.search(r"20[12]\d", curve.source)
    parts.append(f"of {year.group()}" if year else "year not told")
    return "; ".join(parts)


def beside_rows(found: Iterable[Beside]) -> list[dict[str, str]]:
    """For a table."""
    rows = []
    for one in found:
        curve = one.curve
        most = max(curve.points)
        if one.efficiency:
            told = f"{one.efficiency[most] * 100:.1f} % on {most} devices, against {one.fewest}"
        else:
            told = f"n/a: {most} devices alone, {curve.points[most]:,.0f} {curve.unit}"
        rows.append(
            {
                "published": f"{curve.model}, {curve.strategy}",
                "efficiency": told,
                "what differs": one.differs,
                "source": curve.source,
            }
        )
    return rows


def beside_chart(
    cases: Sequence[Mapping[str, Any]], found: Sequence[Beside], ours: Ours, note: str
) -> Chart | None:
    """Efficiency over devices, ours in the colours of their strategies; None where there is nothing to draw."""
    lines, known = curves(cases, "efficiency"), [one for one in found if one.efficiency]
    if not known:
        return None
    name = recipe_name(ours.recipe)
    return Chart(
        slug(name, ours.scaling, "published"),
        f"{name}, {ours.scaling}, beside published efficiencies",
        f"Efficiency of this study's strategies and of published runs over the number of devices. {note}",
        partial(_draw, lines, known),
        height_in=4.3,
    )


def _draw(lines: Sequence[Line], known: Sequence[Beside], axes: "Axes") -> None:
    axes.axhline(100, color=FAINT, linestyle=(0, (5, 3)), linewidth=1, zorder=1)
    ends = [100.0]
    if lines:
        ends += draw_lines(lines, "efficiency", 100, axes)
    for one, mark in zip(known, MARKS, strict=False):
        points = {**({} if one.curve.unit == "efficiency" else {one.fewest: 1.0}), **one.efficiency}
        values = [100 * value for value in points.values()]
        ends += values
        axes.plot(
            list(points),
            values,
            color=FAINT,
            marker=mark,
            linewidth=0.9,
            markersize=4,
            markerfacecolor="none",
            label=_label(one.curve),
        )
    most = max([max(one.curve.points) for one in known] + [c["workers"] for line in lines for c in line[2]])
    ticks = [2**power for power in range(most.bit_length()) if 2**power <= most]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(0.85, most * 1.18)
    axes.set_xlabel("devices")
    axes.set_ylim(*around(min(ends), max(ends)))
    axes.set_ylabel("efficiency, %")
    grid(axes)
    legend_below(axes, columns=2, left=-0.1)


def _label(curve: Curve) -> str:
    batch = f", {curve.batch_per_device} each" if curve.batch_per_device else ""
    return f"{curve.model}, {curve.hardware.partition(' GPUs')[0]}{batch}"


def note(found: Sequence[Beside]) -> str:
    """What a reader must know before comparing."""
    if any(one.same_model and one.like_hardware for one in found):
        return "The same model on like hardware is among them; what differs still is told for each."
    if any(one.same_model or one.like_hardware for one in found):
        return "The same model, or like hardware, is among them, not both: compare shapes, not values."
    return (
        "None of them has this model or this hardware: they are orientation, how far others got, no comparison. "
        "Each is measured against its own fewest devices."
    )
