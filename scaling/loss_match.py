"""Do the loss curves lie on each other? Runs of one recipe with equal workers, batch and micro-batches train the same.

The worst relative difference of a group is the largest |loss - reference| / |reference| over all steps that both have;
the reference is the first run of the group, a -single one where there is one. Equal micro-batches are asked for since
BatchNorm's losses depend on them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.charts import LOOKS, Chart, grid, legend_below
from scaling.wording import STRATEGIES, recipe_name, slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = Mapping[str, Any]
"""An entry of "losses" of analysis.json."""


@dataclass(frozen=True)
class Group:
    """Runs that should have the same losses. Differences are None where a group has one run."""

    recipe: str
    workers: int
    global_batch: int
    curves: tuple[Curve, ...]
    worst: float | None
    worst_step: int | None
    worst_run: str | None
    first_step_worst: float | None

    @property
    def strategies(self) -> list[str]:
        """In the usual order."""
        return sorted({curve["strategy"] for curve in self.curves}, key=STRATEGIES.index)


def groups(losses: Iterable[Curve]) -> list[Group]:
    """By recipe, workers and batch."""
    found: dict[tuple, list[Curve]] = {}
    for curve in losses:
        key = (curve["recipe"], curve["workers"], curve["global_batch"], curve["micro_batches"])
        found.setdefault(key, []).append(curve)
    return [
        _group(sorted(curves, key=lambda curve: (STRATEGIES.index(curve["strategy"]), curve["repetition"])))
        for _, curves in sorted(found.items(), key=lambda item: tuple(map(str, item[0])))
    ]


def _group(curves: list[Curve]) -> Group:
    reference, *others = curves
    found = [(curve["id"], *difference(curve, reference)) for curve in others]
    worst = max(
        (
            (float(values.max()), int(steps[values.argmax()]), name)
            for name, steps, values in found
            if len(steps)
        ),
        default=(None, None, None),
    )
    return Group(
        recipe=reference["recipe"],
        workers=reference["workers"],
        global_batch=reference["global_batch"],
        curves=tuple(curves),
        worst=worst[0],
        worst_step=worst[1],
        worst_run=worst[2],
        first_step_worst=max((float(values[0]) for _, steps, values in found if len(steps)), default=None),
    )


def difference(curve: Curve, reference: Curve) -> tuple[np.ndarray, np.ndarray]:
    """The steps [n] that both have a finite loss at, and |loss - reference| / |reference| there [n]."""
    own, theirs = (_known(one) for one in (curve, reference))
    steps = np.array(sorted(own.keys() & theirs.keys()), int)
    values = np.array([abs(own[step] - theirs[step]) / abs(theirs[step]) for step in steps.tolist()])
    return steps, values


def _known(curve: Curve) -> dict[int, float]:
    return {step: loss for step, loss in zip(curve["steps"], curve["losses"], strict=True) if loss}


def shown(found: Sequence[Group], cases: Iterable[Mapping[str, Any]], recipe: str) -> Group | None:
    """The group to draw beside these cases: the one with the most workers, and of those the most strategies."""
    sizes = {(case["workers"], case["global_batch"]) for case in cases}
    mine = [
        group
        for group in found
        if group.recipe == recipe and (group.workers, group.global_batch) in sizes and group.worst is not None
    ]
    return max(mine, key=lambda group: (group.workers, len(group.strategies)), default=None)


def loss_charts(group: Group, scaling: str) -> list[Chart]:
    """The losses on each other, and how far they are apart."""
    name = recipe_name(group.recipe)
    workers = f"{group.workers} workers" if group.workers > 1 else "one worker"
    what = f"{len(group.curves)} runs of {name} on {workers} with a global batch of {group.global_batch}"
    return [
        Chart(
            slug(name, scaling, "losses"),
            f"{name}, {scaling}: losses on {workers}",
            f"Training losses of {what}, one line a run. Lines that lie on each other are drawn in falling width.",
            partial(draw_losses, group),
            height_in=3.1,
        ),
        Chart(
            slug(name, scaling, "differences"),
            f"{name}, {scaling}: how far losses differ",
            f"How far the losses of {what} are from those of {group.curves[0]['id']}, relative. Rounding differs "
            "between frameworks, and training makes it larger from step to step.",
            partial(draw_differences, group),
            height_in=3.1,
        ),
    ]


def draw_losses(group: Group, axes: "Axes") -> None:
    """The first strategies broad, the last narrow, so that all are seen."""
    widths = np.linspace(6, 1.2, len(group.strategies))
    for strategy, width in zip(group.strategies, widths, strict=True):
        for number, curve in enumerate(_of(group, strategy)):
            look = LOOKS[strategy]
            axes.plot(
                curve["steps"],
                [np.nan if loss is None else loss for loss in curve["losses"]],
                color=look["color"],
                linewidth=width,
                label=None if number else strategy,
            )
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    grid(axes)
    legend_below(axes)


def draw_differences(group: Group, axes: "Axes") -> None:
    """On a logarithmic axis, with a tick for "0" below all others."""
    apart = [(curve, *difference(curve, group.curves[0])) for curve in group.curves[1:]]
    known = np.concatenate([values for _, _, values in apart])
    least = known[known > 0].min(initial=1.0) if len(known) else 1.0
    floor = 10.0 ** (np.floor(np.log10(least)) - 1)
    for curve, steps, values in apart:
        axes.plot(
            steps,
            np.maximum(values, floor),
            **{**LOOKS[curve["strategy"]], "markersize": 3},
            markevery=max(len(steps) // 8, 1),
            linewidth=1,
            label=curve["strategy"],
        )
    axes.set_yscale("log")
    axes.set_ylim(bottom=floor / 2)
    axes.yaxis.set_major_formatter(
        lambda value, _: "0" if value < floor * 1.01 else f"{value:.0e}".replace("e-0", "e-")
    )
    axes.set_xlabel("step")
    axes.set_ylabel("|difference| / loss")
    grid(axes)
    legend_below(axes)


def _of(group: Group, strategy: str) -> list[Curve]:
    return [curve for curve in group.curves if curve["strategy"] == strategy]
