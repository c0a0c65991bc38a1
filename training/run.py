"""One run: the recipe, the strategy, the world and the directory, checked before any group is joined."""

import os
import shutil
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from data.sources import Source, open_source
from models.specs import GptSpec, ResNetSpec, parameter_count
from recipes.checking import RecipeError, shown
from recipes.recipe import Recipe, differing_keys, from_dict, load_recipe
from telemetry import sampling
from telemetry.run_log import read_json
from training import checkpoint, claim, hanging, restart
from training.options import Options, warn
from training.problems import UsageError
from training.state import MOMENTS, State, initial_state, misfit, parameter_dtype
from training.world import World

LEFT_BEHIND = (".ranks", ".claim", "status.json", "failure-*.txt", "stacks-*.txt", ".*.tmp")
"""What is in the directory of a run that hung or was killed before it began."""


@dataclass
class Run:
    """What the loop and the scripts need to know. `start` is the state to begin from, set by `open_run`."""

    recipe: Recipe
    strategy: str
    world: World
    accumulation: int
    run_dir: Path
    options: Options
    train_source: Source
    resumed_tokens: int = 0
    segments: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    start: State | None = None

    @property
    def workers(self) -> int:
        """N, the replicas of the model."""
        return self.world.workers

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie."""
        return self.run_dir / "checkpoints"

    @property
    def exchanges(self) -> bool:
        """Whether the workers train one model. Without (--no-exchange) what they do is measured, and is no training."""
        return not self.options.no_exchange

    @property
    def records_gradients(self) -> bool:
        """Runs that are to be verified keep the gradients of their last step."""
        return self.options.replay_from is not None

    def open_source(self, split: str) -> Source:
        """The recipe's data, `split` "train" or "validation". Raises DataError."""
        return open_recipe_source(self.recipe, split)


def open_recipe_source(recipe: Recipe, split: str) -> Source:
    """Open what `[data]` names, with the sizes of the model. Raises DataError."""
    model = recipe.model
    return open_source(
        recipe.data.source,
        split=split,
        path=recipe.data.path,
        layout=recipe.data.layout,
        image_size=model.image_size if isinstance(model, ResNetSpec) else None,
        num_classes=model.num_classes if isinstance(model, ResNetSpec) else None,
        context=model.context if isinstance(model, GptSpec) else None,
        vocabulary=model.vocabulary if isinstance(model, GptSpec) else None,
        seed=recipe.seed,
        skip_corrupt=recipe.data.skip_corrupt,
    )


def open_run(options: Options, strategy: str, world: World, with_state: bool = True) -> Run:
    """Everything that can be wrong before training, found now and without a framework.

    Without `with_state` (for a launcher) the state to start from is left out. Writes nothing.
    Raises UsageError, RecipeError or DataError, each one line.
    """
    if options.workers is not None and options.workers != world.workers:
        raise UsageError(
            f"--workers: found {options.workers}, but {world.launcher} started {world.workers} of {strategy}; "
            "make the two agree"
        )
    recipe, run_dir, saved = _recipe_and_directory(options, strategy, world.workers)
    accumulation = _accumulation(options, recipe, world.workers, saved)
    if options.stop_after is not None and not 1 <= options.stop_after <= recipe.steps:
        raise UsageError(
            f"--stop-after: found {options.stop_after}, expected a step from 1 to {recipe.steps}"
        )
    if options.no_exchange and (options.resume or options.replay_from or recipe.run.checkpoint_every):
        what = (
            "run.checkpoint_every"
            if recipe.run.checkpoint_every
            else "--resume"
            if options.resume
            else "--replay-from"
        )
        raise UsageError(
            f"--no-exchange: measures only, and has no common state to save or compare; leave out {what}"
        )
    if options.profile and options.replay_from:
        raise UsageError(
            "--profile: traces training, found --replay-from, which verifies; leave one of them out"
        )
    interval_s = options.telemetry_interval_s
    if interval_s and not sampling.SHORTEST_S <= interval_s <= sampling.LONGEST_S:
        raise UsageError(
            f"--telemetry-interval-s: found {interval_s}, expected {sampling.SHORTEST_S} to {sampling.LONGEST_S:.0f} "
            "seconds, or 0 for none"
        )
    timeout_s = options.hang_timeout_s
    if timeout_s and not hanging.SHORTEST_S <= timeout_s <= hanging.LONGEST_S:
        raise UsageError(
            f"--hang-timeout-s: found {timeout_s}, expected {hanging.SHORTEST_S:.0f} to {hanging.LONGEST_S:.0f} "
            "seconds, or 0 for never"
        )
    check_disk(run_dir, recipe)
    run = Run(
        recipe,
        strategy,
        world,
        accumulation,
        run_dir,
        options,
        open_recipe_source(recipe, "train"),
        segments=saved.get("segments", []),
    )
    if not with_state:
        claim.check(run_dir)
        return run
    if saved:
        if world.is_main:
            claim.hold(run_dir)
        state, manifest, run.notes = checkpoint.load_latest(
            run.checkpoints, recipe.recipe_id, partial(misfit, recipe)
        )
        if state is None and run.notes:  # days of training may stand in them: not for us to begin anew
            raise UsageError(
                f"--resume {run_dir}: none of its {len(run.notes)} checkpoints can be used ({run.notes[0]}); mend "
                f"them, or remove {run.checkpoints} to start again at step 0"
            )
        if state is None:
            run.notes.append("no checkpoint to resume from; starting again at step 0")
        if world.is_main and (told := restart.line(run_dir, state.step if state else 0)):
            warn(told)
        run.start, run.resumed_tokens = state, manifest.get("tokens", 0)
        if options.stop_after is not None and state is not None and options.stop_after <= state.step:
            raise UsageError(
                f"--stop-after: found {options.stop_after}, but {run_dir} is at step {state.step} already"
            )
    if run.start is None:
        run.start = initial_state(recipe)
    return run


def default_run_dir(recipe_name: str, strategy: str, workers: int) -> Path:
    """Where a run goes that was not told where to go."""
    return Path("runs") / f"{Path(recipe_name).stem}-{strategy}-{workers}"


def _recipe_and_directory(options: Options, strategy: str, workers: int) -> tuple[Recipe, Path, dict]:
    """The recipe, the run directory, and run.json's content on a resume (else an empty dict)."""
    if not options.resume:
        if options.recipe is None:
            raise UsageError("--recipe: missing; expected a name in recipes/ or the path of a .toml file")
        recipe = load_recipe(options.recipe, options.overrides)
        run_dir = options.run_dir or default_run_dir(options.recipe, strategy, workers)
        if not restart.is_ours(run_dir):
            if is_taken("--run-dir", run_dir):
                raise UsageError(
                    f"--run-dir {run_dir}: exists already; go on with --resume or choose another directory"
                )
            return recipe, run_dir, {}
        options.resume, options.run_dir = True, run_dir
    if options.run_dir is None:
        raise UsageError("--resume: needs --run-dir, the directory of the run to go on with")
    restart.check(options.run_dir)
    saved = read_run_json(options.run_dir)
    recipe = from_dict(saved["recipe"])
    if options.recipe is not None or options.overrides:
        given = load_recipe(options.recipe, options.overrides) if options.recipe else None
        if given is None:
            raise UsageError(
                "--set: on --resume the recipe comes from run.json; leave --set out, or give --recipe too"
            )
        if given.recipe_id != recipe.recipe_id:
            keys = ", ".join(differing_keys(given, recipe))
            raise UsageError(
                f"--recipe {options.recipe}: differs from {options.run_dir}/run.json in {keys}; leave it out"
            )
    return recipe, options.run_dir, saved


def is_taken(option: str, run_dir: Path) -> bool:
    """Whether a run is there, or anything else but what a start leaves that never came to its run.json.

    Raises UsageError where one cannot look.
    """
    try:
        if not run_dir.is_dir():
            return run_dir.exists()
        return not all(any(map(path.match, LEFT_BEHIND)) for path in run_dir.iterdir())
    except OSError as error:  # a name that is too long, a directory that is not ours
        raise UsageError(f"{option} {run_dir}: {error.strerror}; choose another directory") from error


def read_run_json(run_dir: Path) -> dict:
    """run.json of an existing run. Raises UsageError where there is none that can be read."""
    path = run_dir / "run.json"
    try:
        content = read_json(path)
        _check_saved(content, from_dict(content["recipe"]).recipe_id)
        return content
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error) if isinstance(error, RecipeError) else type(error).__name__
        raise UsageError(
            f"--resume {run_dir}: no run to go on with ({path}: {reason}); expected a run directory"
        ) from error


def _check_saved(content: dict, recipe_id: str) -> None:
    """What else of run.json a resume builds on. Raises RecipeError."""
    told = content.get("recipe_id", recipe_id)
    if told != recipe_id:  # then no checkpoint would be this recipe's, and all of the run would be made again
        raise RecipeError(
            f"recipe_id: found {shown(told)}, but its recipe has {recipe_id}; restore what it was"
        )
    micro_batches = content.get("micro_batches", 1)
    if type(micro_batches) is not int or micro_batches < 1:
        raise RecipeError(f"micro_batches: found {shown(micro_batches)}, expected an integer of 1 or more")
    segments = content.get("segments", [])
    if not (isinstance(segments, list) and all(isinstance(segment, dict) for segment in segments)):
        raise RecipeError(f"segments: found {shown(segments)}, expected a list of tables")


def _accumulation(options: Options, recipe: Recipe, workers: int, saved: dict) -> int:
    """Micro-batches a worker; on a resume what keeps M = workers x accumulation (invariant 2)."""
    accumulation = options.accumulation
    if accumulation is None:
        total = saved.get("micro_batches", workers)
        if total % workers:
            raise UsageError(
                f"--resume on {workers} workers: the run has {total} micro-batches a step, which {workers} workers "
                "cannot share equally; choose a divisor of it, or give --accumulation (BatchNorm then sees others)"
            )
        accumulation = total // workers
    check_batch(recipe, workers, accumulation)
    return accumulation


def check_batch(recipe: Recipe, workers: int, accumulation: int) -> None:
    """Raises UsageError where the global batch does not divide into the micro-batches."""
    if workers < 1 or accumulation < 1:
        key, value = ("--workers", workers) if workers < 1 else ("--accumulation", accumulation)
        raise UsageError(f"{key}: found {value}, expected an integer of 1 or more")
    micro_batches = workers * accumulation
    if recipe.data.global_batch % micro_batches:
        raise UsageError(
            f"data.global_batch: found {recipe.data.global_batch}, expected a multiple of {micro_batches} "
            f"({workers} workers x {accumulation} accumulation); change it with --set data.global_batch=…"
        )


def check_writable(option: str, path: Path) -> Path:
    """The nearest directory above (or at) `path` that exists. Raises UsageError where nothing can be made in it."""
    parent = next(each for each in (path, *path.absolute().parents) if each.exists())
    writable = parent.is_file() if parent == path and option == "--report" else parent.is_dir()
    if not writable or not os.access(parent, os.W_OK):
        raise UsageError(
            f"{option} {path}: {parent} is not a directory that can be written; choose another place"
        )
    return parent


def check_disk(run_dir: Path, recipe: Recipe) -> None:
    """Raises UsageError where the run directory could not be made or the checkpoints yet to come would not fit."""
    parent = check_writable("--run-dir", run_dir)
    copies = 1 + len(MOMENTS[recipe.optimizer.name])
    checkpoints = recipe.run.keep_checkpoints if recipe.run.checkpoint_every else 1
    checkpoints += recipe.run.eval_every > 0  # the best one may be none of the newest
    saves = recipe.steps // recipe.run.checkpoint_every + 1 if recipe.run.checkpoint_every else 1
    one = parameter_count(recipe.model) * parameter_dtype(recipe).itemsize * copies
    present = len(checkpoint.complete_steps(run_dir / "checkpoints"))  # of a run that is resumed
    missing = max(min(checkpoints, saves) - present, 0)
    needed = one * (missing + 1)  # a new one stands beside the old for a while
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UsageError(
            f"--run-dir {run_dir}: {free / 2**20:,.0f} MiB free on the disk of {parent}, but the checkpoints need "
            f"{needed / 2**20:,.0f} MiB; free some, choose another place, or lower run.keep_checkpoints"
        )


def command_line() -> list[str]:
    """The command of this process, as a person would type it after `python`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["-m", spec.name, *sys.argv[1:]] if spec else list(sys.argv)
