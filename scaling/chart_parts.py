"""Where a step goes: a stacked bar a strategy and size, its parts measured by the ideal step."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from scaling.charts import FAINT, PART_LOOKS, Chart, grid, legend_below
from scaling.wording import PARTS, STRATEGIES, listed, milliseconds, percent, recipe_name, slug
from telemetry.drawing import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ORDER = ("compute", "slower compute", "data", "stragglers", "exchange", "rest")
LABELS = {**PARTS, "slower compute": "compute lost against the base"}
NOTABLE = 0.02
"""A rest from this part of a step on is told by name."""

Case = Mapping[str, Any]
"""An entry of "cases" of analysis.json."""


def decomposed(cases: Iterable[Case]) -> list[Case]:
    """Those whose step was taken apart, by strategy and workers."""
    found = [case for case in cases if case["decomposition"] and not case["decomposition"]["reason"]]
    return sorted(
        found, key=lambda case: (STRATEGIES.index(case["strategy"]), case["workers"], case["nodes"])
    )


def parts_charts(cases: Sequence[Case], recipe: str, scaling: str) -> list[Chart]:
    """The whole step, and what of it is lost against the ideal one; empty where no step was taken apart."""
    shown = decomposed(cases)
    compared = [case for case in shown if case["decomposition"]["ideal_step_s"]]
    name, charts = recipe_name(recipe), []
    if shown:
        charts.append(
            Chart(
                slug(name, scaling, "parts"),
                f"{name}, {scaling}: where a step goes",
                f"The parts of a step of each strategy and number of workers, {scaling} scaling of {name}, in percent "
                "of the ideal step (the dashed line). What reaches beyond 100 % is lost; the diamond is the measured "
                "step. Where compute ends before 100 %, a worker computed faster than the base.",
                partial(draw_bars, shown, [whole(case["decomposition"]) for case in shown], 100.0),
                height_in=_height_in(shown),
            )
        )
    if compared:
        charts.append(
            Chart(
                slug(name, scaling, "lost"),
                f"{name}, {scaling}: what a step loses",
                "The same without the ideal step: what each part costs beyond it. Left of 0 is what was won: compute "
                "that is faster than the base's, or a rest by which the parts are too large.",
                partial(draw_bars, compared, [lost(case["decomposition"]) for case in compared], None),
                height_in=_height_in(compared),
            )
        )
    return charts


def _height_in(cases: Sequence[Case]) -> float:
    return 1.85 + 0.25 * len(cases)


def whole(decomposition: Mapping[str, Any]) -> dict[str, float]:
    """Each part in percent of the ideal step, of the step itself where there is no base."""
    seconds = {name: part["seconds"]["value"] if part else 0.0 for name, part in _parts(decomposition)}
    compute_lost_s = _lost_s(decomposition).get("compute", 0.0)
    slower_s = max(compute_lost_s, 0.0)
    seconds |= {"compute": seconds["compute"] - slower_s, "slower compute": slower_s}
    ideal = decomposition["ideal_step_s"] or decomposition["step_s"]
    return {name: 100 * seconds[name] / ideal["value"] for name in ORDER}


def lost(decomposition: Mapping[str, Any]) -> dict[str, float]:
    """What each part costs beyond the ideal step, in percent of that."""
    seconds = {"compute": 0.0, "data": 0.0, "stragglers": 0.0, "rest": 0.0, **_lost_s(decomposition)}
    seconds |= {"slower compute": seconds["compute"], "compute": 0.0}
    return {name: 100 * seconds[name] / decomposition["ideal_step_s"]["value"] for name in ORDER}


def _lost_s(decomposition: Mapping[str, Any]) -> dict[str, float]:
    return {name: part["lost_s"]["value"] for name, part in _parts(decomposition) if part and part["lost_s"]}


def _parts(decomposition: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return decomposition["parts"].items()


def draw_bars(
    cases: Sequence[Case], slices: Sequence[Mapping[str, float]], ideal: float | None, axes: "Axes"
) -> None:
    """A bar a case, grouped by strategy: parts above 0 to the right, the others to the left, a diamond at their sum."""
    from matplotlib.patches import Patch

    places = _places(cases)
    for y, found in zip(places, slices, strict=True):
        right = left = 0.0
        for name in ORDER:
            start, width = (right, found[name]) if found[name] >= 0 else (left, found[name])
            axes.barh(y, width, left=start, height=0.74, edgecolor=INK, linewidth=0.4, **PART_LOOKS[name])
            right, left = (right + width, left) if width >= 0 else (right, left + width)
        axes.plot(sum(found.values()), y, "D", color=INK, markersize=3.5)
    axes.use_sticky_edges = False
    axes.margins(x=0.03)
    axes.axvline(0, color=INK, linewidth=0.7)
    if ideal is not None:
        axes.axvline(ideal, color=FAINT, linestyle=(0, (5, 3)), linewidth=1)
    axes.set_yticks(places, [bar_label(case) for case in cases])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.set_xlabel("% of the ideal step")
    grid(axes, "x")
    handles = [
        Patch(edgecolor=INK, linewidth=0.4, label=LABELS[name], **PART_LOOKS[name])
        for name in ORDER
        if any(found[name] for found in slices)
    ]
    legend_below(axes, columns=2, handles=handles, left=-0.25)


def _places(cases: Sequence[Case]) -> list[float]:
    places, place, last = [], 0.0, cases[0]["strategy"]
    for case in cases:
        place += 0.45 if case["strategy"] != last else 0.0
        last = case["strategy"]
        places.append(place)
        place += 1.0
    return places


def parts_rows(cases: Sequence[Case]) -> list[dict[str, str]]:
    """A row a case that was taken apart: each part with its interval, in percent of the step."""
    rows = []
    for case in decomposed(cases):
        found = case["decomposition"]
        row = {"strategy": case["strategy"], "workers": str(case["workers"]), "nodes": str(case["nodes"])}
        row |= {"step": milliseconds(found["step_s"]), "ideal": milliseconds(found["ideal_step_s"])}
        shares = {PARTS[name]: percent(part["share"] if part else None) for name, part in _parts(found)}
        lost_s = (found["parts"]["compute"] or {}).get("lost_s")
        rows.append({**row, **shares, "compute lost": milliseconds(lost_s)})
    return rows


def bar_label(case: Case) -> str:
    """`torch-ddp 8 (2 nodes)`."""
    nodes = f" ({case['nodes']} nodes)" if case["nodes"] > 1 else ""
    return f"{case['strategy']} {case['workers']}{nodes}"


def what_does_not_add_up(cases: Sequence[Case]) -> str:
    """In words: how large the rest is, and where."""
    rests = {
        f"{bar_label(case)} ({share['value'] * 100:+.1f} %)": share["value"]
        for case in decomposed(cases)
        if (share := case["decomposition"]["parts"]["rest"]["share"])
    }
    if not rests:
        return ""
    worst = max(rests, key=lambda name: abs(rests[name]))
    notable = [name for name, share in rests.items() if abs(share) >= NOTABLE]
    if not notable:
        return (
            f"The parts add up to the step within {NOTABLE * 100:.0f} % everywhere; furthest off is {worst}."
        )
    return (
        f"The parts do not add up by {NOTABLE * 100:.0f} % of the step or more for {listed(notable)}: read their "
        "parts with that much doubt."
    )


def why_not_decomposed(cases: Iterable[Case]) -> list[str]:
    """A sentence for each reason, with the cases that it holds for. One worker exchanges nothing, so is not named."""
    reasons: dict[str, list[str]] = {}
    for case in cases:
        found = case["decomposition"]
        if case["workers"] > 1 and found and found["reason"]:
            reasons.setdefault(found["reason"], []).append(bar_label(case))
    return [f"Not taken apart: {listed(names)}: {reason}." for reason, names in reasons.items()]
