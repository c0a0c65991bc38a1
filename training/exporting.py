"""What exports have in common: where a checkpoint lies, the inputs that try a file out, and how one is published."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from models.specs import GptSpec, ModelSpec
from recipes.checking import RecipeError
from recipes.recipe import Recipe, from_dict
from telemetry.run_log import read_json
from training import checkpoint
from training.foreign_names import check_family
from training.options import warn
from training.problems import EXIT_DONE, EXIT_FAILED, UsageError
from training.run import check_writable
from training.state import Arrays, misfit

Form = Literal["torch", "keras", "savedmodel", "onnx"]
Names = Literal["canonical", "torchvision", "huggingface"]
BOUNDS = {"torch": 0.0, "keras": 1e-5, "savedmodel": 1e-5, "onnx": 1e-5}
"""The most that a logit may differ from the model's, as a share of the largest: what is read back must be equal, and
other kernels for the same float32 numbers round differently (measured for a ResNet-50: 8e-7)."""
Answer = Callable[[np.ndarray], np.ndarray]
"""From inputs, as `trial_inputs` has them, to logits."""


@dataclass
class ExportOptions:
    """Write the model of a checkpoint as a file that other programs load."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A run directory (its newest whole checkpoint is taken), or one checkpoint in it."""
    to: Form
    """torch: a state dict. keras: a .keras file. savedmodel: a directory. onnx: an ONNX file."""
    out: Path
    """What to write. It must not exist."""
    names: Names = "canonical"
    """Whose names a state dict has (and for huggingface, whose layout). torchvision's are the canonical ones."""


def check_options(options: ExportOptions) -> Recipe:
    """Everything that can be found wrong before a framework is imported; returns the run's recipe.

    Raises UsageError, one line.
    """
    recipe = run_recipe(options.checkpoint)
    if options.names != "canonical":
        if options.to != "torch":
            raise UsageError(
                f"--names {options.names}: is for --to torch, found --to {options.to}; leave it out"
            )
        check_family(recipe.model, options.names, "--names")
    if options.to == "keras" and options.out.suffix != ".keras":
        raise UsageError(f"--out {options.out}: Keras reads what ends in .keras; name it so")
    written = [
        options.out,
        options.out.with_name(f"{options.out.name}.data"),
    ]  # the second by ONNX, if it is large
    try:
        taken = [path for path in written if path.exists() or path.is_symlink()]
    except OSError as error:
        raise UsageError(f"--out {options.out}: {error.strerror}; choose another name") from error
    if taken:
        raise UsageError(f"--out {options.out}: {taken[0]} exists already; choose another name or remove it")
    check_writable("--out", options.out)
    return recipe


def run_directory(path: Path) -> Path:
    """The run directory that `path` is, or in whose checkpoints/ it lies."""
    return path.resolve().parent.parent if (path / checkpoint.MANIFEST).is_file() else path


def run_recipe(path: Path) -> Recipe:
    """The recipe of a run directory or of one of its checkpoints. Raises UsageError."""
    found = run_directory(path) / "run.json"
    try:
        return from_dict(read_json(found)["recipe"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error) if isinstance(error, RecipeError) else type(error).__name__
        raise UsageError(
            f"{path}: found no run ({found}: {reason}), expected a run directory or a checkpoint in one"
        ) from error


def read_weights(path: Path, recipe: Recipe) -> tuple[Arrays, int]:
    """Parameters and running statistics as float32, which is what serving programs compute in, and the step.

    Raises UsageError where there is no whole checkpoint of this recipe.
    """
    if (path / checkpoint.MANIFEST).is_file():
        try:
            state, manifest = checkpoint.load(path)
        except checkpoint.CheckpointError as error:
            raise UsageError(f"{error}; choose another checkpoint") from error
        if manifest.get("recipe_id") != recipe.recipe_id:
            raise UsageError(
                f"{path}: found recipe id {manifest.get('recipe_id')}, expected {recipe.recipe_id} of its run.json"
            )
        if reason := misfit(recipe, state):
            raise UsageError(f"{path}: {reason}; choose another checkpoint")
    else:
        latest, _, skipped = checkpoint.load_latest(
            path / "checkpoints", recipe.recipe_id, partial(misfit, recipe)
        )
        for line in skipped:
            warn(line)
        if latest is None:
            raise UsageError(f"{path / 'checkpoints'}: found no whole checkpoint, expected one to export")
        state = latest
    values = {**state.parameters, **state.buffers}
    return {name: array.astype(np.float32) for name, array in values.items()}, state.step


def trial_inputs(spec: ModelSpec) -> list[np.ndarray]:
    """Two batches of different sizes, always the same: int32 tokens [n, T] or uint8 pixels [n, S, S, 3].

    One row of tokens has the whole context, so that every position counts.
    """
    rng = np.random.default_rng(0)
    if isinstance(spec, GptSpec):
        shapes = [(1, spec.context), (3, min(spec.context, 7))]
        return [rng.integers(0, spec.vocabulary, shape, np.int32) for shape in shapes]
    return [rng.integers(0, 256, (n, spec.image_size, spec.image_size, 3), np.uint8) for n in (1, 3)]


def largest_difference(expected: np.ndarray, found: np.ndarray) -> float:
    """Between logits, as a share of the largest expected one; infinite where shapes differ or one is not finite."""
    if found.shape != expected.shape or not (np.isfinite(expected).all() and np.isfinite(found).all()):
        return float("inf")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def write_checked(
    options: ExportOptions,
    spec: ModelSpec,
    step: int,
    *,
    model: Answer,
    write: Callable[[Path], None],
    load: Callable[[Path], Answer],
) -> int:
    """Write beside `options.out`, load that again, compare it with `model`, and only then give it its name.

    Returns 0, or 1 after a line that says by how much it differs or why it cannot be written; then nothing is left.
    """
    inputs, out = trial_inputs(spec), options.out
    expected = [model(batch) for batch in inputs]
    folder = out.with_name(f".{out.name}.{os.getpid()}.writing")
    try:
        folder.mkdir(parents=True)
        write(folder / out.name)
        loaded = load(folder / out.name)
        worst = max(
            largest_difference(logits, loaded(batch)) for logits, batch in zip(expected, inputs, strict=True)
        )
        told = f"the largest difference in a logit is {worst:.1e} of the largest logit, allowed {BOUNDS[options.to]:g}"
        if worst > BOUNDS[options.to]:
            warn(f"{out}: not written, because what was loaded again is not the model: {told}")
            return EXIT_FAILED
        for path in sorted(folder.iterdir(), key=lambda path: path.name == out.name):
            os.rename(path, out.parent / path.name)  # what the file itself refers to comes before it
    except OSError as error:
        warn(f"{out}: not written: {error.strerror or error}; free some space or choose another place")
        return EXIT_FAILED
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{out}: {options.to}, step {step}, loaded again: {told}")
    return EXIT_DONE
