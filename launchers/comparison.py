"""What verify compares: two run directories at a time, in NumPy. Nothing here starts or changes anything."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from recipes.recipe import HALF_TYPES, Recipe
from telemetry.run_log import read_rows
from training import checkpoint
from training.replay import FOLDER
from training.state import Arrays, State, initial_state
from training.update_rule import updated

CONTROL_FACTOR = 10
"""How many times the measured control a difference may be, at most, in any precision but float64."""
UNIT_ROUNDOFF = {"bf16": 2.0**-8, "fp16": 2.0**-11}
"""Of the types in which compressed gradients travel: half the distance of two numbers next to each other at 1."""
FLOOR = {"bf16": 0.0, "fp16": 2.0**-25}
"""Half the distance of two numbers next to zero (bf16's is 2**-134)."""
LEAST_LARGEST = 2.0**-10
"""What the largest gradient element of a run compared in fp16 has to be, at least; ours are above 0.3."""
EXACT = ("learning_rate", "sample_digest")
"""What must be equal to the last bit, at every step."""


@dataclass(frozen=True)
class Bounds:
    """The largest differences that pass; None where a precision has no bound and the figure is only reported.

    loss and gradient are relative (a gradient's to the model's largest gradient element), statistics are relative
    to the largest element of their tensor, update and parameters are absolute.
    """

    loss: float
    gradient: float
    update: float
    parameters: float | None
    statistics: float | None
    trajectory_loss: float | None
    trajectory_norm: float | None
    trajectory_parameters: float | None
    control: float | None


def bounds_for(recipe: Recipe) -> Bounds:
    """The tolerances of docs/matching.md. They are never loosened to make a comparison pass: the cause is found.

    In half precision losses and gradients have no bound of their own but the control's (`widened`).
    """
    if recipe.precision in HALF_TYPES:
        return Bounds(0.0, 0.0, 2e-6, None, None, None, None, None, None)
    if recipe.precision != "float64":
        return Bounds(1e-5, 1e-4, 2e-6, None, None, None, None, None, None)
    divides_by_small_numbers = recipe.optimizer.name == "adamw"
    parameters = 1e-9 + (1e-3 * recipe.optimizer.learning_rate if divides_by_small_numbers else 0.0)
    return Bounds(1e-12, 1e-10, 1e-12, parameters, 1e-10, 1e-9, 1e-8, 1e-8, 1e-10)


def with_compression(bounds: Bounds, compression: str, workers: int) -> Bounds:
    """The bounds of a run whose gradients travel as "bf16" or "fp16", from those of a run that does not round them.

    compression: what training.communication.wire_type says of the run; "none" leaves the bounds as they are. Derived
    in docs/matching.md: n roundings on the way of an element, of numbers no larger than the largest gradient element
    times n. Loss, update and statistics keep their bounds; the parameters, which follow from another gradient, and
    trajectories have none.
    """
    if compression == "none":
        return bounds
    relative = workers * ((1 + UNIT_ROUNDOFF[compression]) ** workers - 1)
    absolute = workers * FLOOR[compression] / LEAST_LARGEST
    return replace(
        bounds,
        gradient=bounds.gradient + relative + absolute,
        parameters=None,
        trajectory_loss=None,
        trajectory_norm=None,
        trajectory_parameters=None,
    )


@dataclass
class Worst:
    """The worst difference of one kind, the bound it is held to, and where it first went over."""

    bound: float | None
    value: float = 0.0
    where: str = ""
    first_over: str = ""
    seen: list[tuple[str, float]] = field(default_factory=list, repr=False)

    def see(self, value: float, where: str) -> None:
        """Take one more difference into account; one that is no number is over any bound."""
        self.seen.append((where, value))
        over = self.bound is not None and not value <= self.bound
        if over and not self.first_over:
            self.first_over = f"{where}: {value:.2e}"
        if not value <= self.value:
            self.value, self.where = (value if value == value else float("inf")), where

    @property
    def passes(self) -> bool:
        """Whether every difference stayed within the bound."""
        return not self.first_over


@dataclass
class Comparison:
    """All that was compared between one run and the reference."""

    worst: dict[str, Worst] = field(default_factory=dict)
    mismatches: list[str] = field(default_factory=list)
    buffers: dict[int, Arrays] = field(default_factory=dict)

    @property
    def passes(self) -> bool:
        """Whether the run is the same training as the reference, as far as it was compared."""
        return not self.mismatches and all(worst.passes for worst in self.worst.values())

    def failures(self) -> list[str]:
        """One line for each kind of difference that went over its bound, with the first place that did."""
        over = [
            f"{kind}: first over {w.bound:.0e} at {w.first_over}"
            for kind, w in self.worst.items()
            if not w.passes
        ]
        return [*self.mismatches[:3], *over]


def compare_one_step(
    recipe: Recipe, reference_dir: Path, run_dir: Path, result: Comparison, bounds: Bounds | None = None
) -> None:
    """Each replayed step of a run against the reference's, and against the update rule in NumPy."""
    bounds = bounds or bounds_for(recipe)
    kinds: dict[str, float | None] = {
        "loss": bounds.loss,
        "gradient": bounds.gradient,
        "gradient norm": bounds.gradient,
    }
    kinds |= {"update": bounds.update, "parameters": bounds.parameters}
    worst = {kind: result.worst.setdefault(kind, Worst(bound)) for kind, bound in kinds.items()}
    rows = _paired_rows(reference_dir / FOLDER, run_dir / FOLDER, result)
    steps = 0
    for theirs, ours in rows:
        steps, step = steps + 1, ours["step"]
        start, after = _saved_state(recipe, reference_dir, step - 1), _replayed(run_dir, step)
        expected = _replayed(reference_dir, step)
        assert after.gradients is not None and expected.gradients is not None
        if expected.loss_scale is not None and theirs["grad_norm"] is None:  # skipped in fp16: no measure
            if ours["grad_norm"] is not None:
                result.mismatches.append(f"step {step}: made an update, which the reference skipped")
        else:
            worst["loss"].see(_relative(ours["loss"], theirs["loss"]), f"step {step}")
            worst["gradient norm"].see(_relative(ours["grad_norm"], theirs["grad_norm"]), f"step {step}")
            largest = max(float(np.abs(g).max()) for g in expected.gradients.values())
            _see_all(worst["gradient"], step, after.gradients, expected.gradients, 1.0 / largest)
        recomputed = updated(start, after.gradients, ours["learning_rate"], recipe.optimizer)
        _see_all(worst["update"], step, after.parameters, recomputed.parameters)
        if after.loss_scale != recomputed.loss_scale:
            result.mismatches.append(
                f"step {step}: loss scale {after.loss_scale}, expected {recomputed.loss_scale}"
            )
        for moment, arrays in recomputed.moments.items():
            _see_all(worst["update"], step, after.moments[moment], arrays, label=f"{moment} of ")
        _see_all(worst["parameters"], step, after.parameters, expected.parameters)
        result.buffers[step] = after.buffers
    if steps != recipe.steps:
        result.mismatches.append(f"one-step: found {steps} steps, expected {recipe.steps}")


def compare_statistics(recipe: Recipe, other: Comparison, result: Comparison) -> None:
    """BatchNorm's running statistics of two runs with equal workers and accumulation (invariant 6)."""
    worst = result.worst.setdefault("statistics", Worst(bounds_for(recipe).statistics))
    for step, arrays in result.buffers.items():
        for name, array in arrays.items():
            expected = other.buffers[step][name]
            scale = max(float(np.abs(expected).max()), 1e-300)
            worst.see(float(np.abs(array - expected).max()) / scale, f"step {step}, {name}")


def compare_trajectory(
    recipe: Recipe, reference_dir: Path, run_dir: Path, result: Comparison, bounds: Bounds | None = None
) -> None:
    """Two runs that went freely: every step's loss and gradient norm, and the final parameters."""
    bounds = bounds or bounds_for(recipe)
    loss = result.worst.setdefault("trajectory loss", Worst(bounds.trajectory_loss))
    norm = result.worst.setdefault("trajectory norm", Worst(bounds.trajectory_norm))
    steps = 0
    for theirs, ours in _paired_rows(reference_dir, run_dir, result):
        steps += 1
        loss.see(_relative(ours["loss"], theirs["loss"]), f"step {ours['step']}")
        norm.see(_relative(ours["grad_norm"], theirs["grad_norm"]), f"step {ours['step']}")
    if steps != recipe.steps:
        result.mismatches.append(f"trajectory: found {steps} steps, expected {recipe.steps}")
        return
    parameters = result.worst.setdefault("trajectory parameters", Worst(bounds.trajectory_parameters))
    final, expected = (_saved_state(recipe, folder, recipe.steps) for folder in (run_dir, reference_dir))
    _see_all(parameters, recipe.steps, final.parameters, expected.parameters)


def control_difference(reference_dir: Path, control_dirs: list[Path]) -> float:
    """The worst relative difference in loss that chaos alone makes of gradients perturbed by 1e-12."""
    worst = 0.0
    for folder in control_dirs:
        for theirs, ours in _paired_rows(reference_dir, folder, Comparison()):
            worst = max(worst, _relative(ours["loss"], theirs["loss"]))
    return worst


def widened(bounds: Bounds, rounding: dict[str, float]) -> Bounds:
    """The one-step bounds of all precisions but float64, where the reference's own rounding is larger than they are.

    One ReLU that rounding sends the other way moves a gradient by far more than 1e-4, in any implementation. So a
    run may be ten times as far from the reference as the reference is from the same steps in float64.
    """
    return replace(
        bounds,
        loss=max(bounds.loss, CONTROL_FACTOR * rounding["loss"]),
        gradient=max(bounds.gradient, CONTROL_FACTOR * rounding["gradient"]),
    )


def rounding_of(recipe: Recipe, reference_dir: Path, exact_dir: Path) -> dict[str, float]:
    """How far the reference's replayed steps are from the same steps in float64: worst loss and gradient."""
    result = Comparison()
    compare_one_step(recipe, reference_dir, exact_dir, result)
    return {kind: result.worst[kind].value for kind in ("loss", "gradient")}


def compare_fingerprints(reference: dict, ours: dict, result: Comparison) -> None:
    """run.json's recipe id, parameter count and digests, which must be equal."""
    for key in ("recipe_id", "parameter_count", "precision"):
        if reference[key] != ours[key]:
            result.mismatches.append(f"{key}: found {ours[key]}, expected {reference[key]}")
    for key, value in reference["digests"].items():
        if ours["digests"].get(key) != value:
            result.mismatches.append(f"digest of {key}: found {ours['digests'].get(key)}, expected {value}")


def _paired_rows(reference_dir: Path, run_dir: Path, result: Comparison) -> Iterator[tuple[dict, dict]]:
    """Training rows of the same step, after a check of what must be equal."""
    theirs, ours = (
        {row["step"]: row for row in read_rows(folder / "metrics.jsonl") if "loss" in row}
        for folder in (reference_dir, run_dir)
    )
    for step in sorted(ours):
        if step not in theirs:
            result.mismatches.append(f"step {step}: the reference has none")
            continue
        for key in EXACT:
            if ours[step][key] != theirs[step][key]:
                result.mismatches.append(
                    f"step {step}: {key} {ours[step][key]}, expected {theirs[step][key]}"
                )
        yield theirs[step], ours[step]


def _see_all(
    worst: Worst, step: int, ours: Arrays, theirs: Arrays, scale: float = 1.0, label: str = ""
) -> None:
    for name, array in ours.items():
        worst.see(float(np.abs(array - theirs[name]).max()) * scale, f"step {step}, {label}{name}")


def _relative(ours: float | None, theirs: float | None) -> float:
    if ours is None or theirs is None:  # a value that was not finite is written as null
        return float("nan")
    return abs(ours - theirs) / max(abs(theirs), 1e-300)


def _saved_state(recipe: Recipe, folder: Path, step: int) -> State:
    return (
        initial_state(recipe)
        if step == 0
        else checkpoint.load(folder / "checkpoints" / f"step-{step:08d}")[0]
    )


def _replayed(folder: Path, step: int) -> State:
    return checkpoint.load(folder / FOLDER / f"step-{step:08d}")[0]
