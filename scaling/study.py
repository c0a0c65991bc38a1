"""Train both embedded recipes under every strategy, and show that they are the same training.

    python -m scaling.study            (make study does this, and sets up the environment first)

Every run sums two micro-batches a step or shares them between two workers, so that BatchNorm sees the same ones
everywhere and all runs of a recipe may share one chart. Runs that are complete already are kept.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from launchers import commands
from launchers.child import run_quietly
from launchers.environment import training_environment
from recipes.recipe import load_recipe
from scaling.results import read_result, read_status
from scaling.table import print_table, write_csv, write_markdown, write_picture
from training.options import Options, Overrides, parse, warn
from training.problems import EXIT_DONE, EXIT_FAILED, UsageError
from training.process import LAUNCHED_BY, guarded

PROGRAM = "python -m scaling.study"
MICRO_BATCHES = 2


@dataclass
class StudyOptions:
    """Train the embedded recipes under all strategies and compare them."""

    name: str = "embedded"
    """The study lies in studies/NAME."""
    recipes: str = "digits-resnet18,stdlib-gpt"
    """Names or paths, separated by commas."""
    strategies: str = "all"
    """`all`, or names separated by commas."""
    workers: str = "2"
    """Worker counts, divisors of 2, separated by commas; -single strategies run with 1."""
    set: Overrides = field(default_factory=list)
    """Override keys of all the recipes."""

    @property
    def overrides(self) -> tuple[str, ...]:
        """All of --set, in order."""
        return tuple(item for group in self.set for item in group)


def main() -> int:
    """Run what is missing, then print and write the table. Returns 1 where a run failed."""
    options = parse(StudyOptions, PROGRAM)
    folder = Path("studies") / options.name
    results = []
    runs = list(_runs(options))
    for number, (recipe, strategy, workers) in enumerate(runs, start=1):
        run_dir = folder / f"{Path(recipe).stem}-{strategy}-{workers}"
        label = f"[{number}/{len(runs)}] {recipe} {strategy} {workers} worker(s)"
        started = time.monotonic()
        why = _run(options, recipe, strategy, workers, run_dir)
        if why:
            warn(f"{label}: failed: {why}")
            continue
        result = read_result(recipe, strategy, workers, run_dir)
        results.append(result)
        print(f"{label}: {result.summary()}  ({time.monotonic() - started:.0f} s)", flush=True)
    if not results:
        return EXIT_FAILED
    print_table(results)
    written = [write(folder, results) for write in (write_markdown, write_csv, write_picture)]
    print("written:", ", ".join(str(path) for path in written))
    return EXIT_DONE if len(results) == len(runs) else EXIT_FAILED


def _runs(options: StudyOptions) -> Iterator[tuple[str, str, int]]:
    """Recipe, strategy and workers of each run, torch-single first: the others are compared with it."""
    known = list(commands.LAUNCHERS)
    chosen = _startable(known) if options.strategies == "all" else options.strategies.split(",")
    for strategy in chosen:
        if strategy not in known:
            raise UsageError(f"--strategies: found {strategy!r}, expected all or some of: {','.join(known)}")
    counts = options.workers.split(",")
    if not set(counts) <= {"1", "2"}:
        raise UsageError(f"--workers: found {options.workers!r}, expected 1, 2 or 1,2")
    for recipe in options.recipes.split(","):
        load_recipe(recipe, options.overrides)
        for strategy in sorted(chosen, key=known.index):
            for count in ("1",) if strategy.endswith("-single") else counts:
                yield recipe, strategy, int(count)


def _startable(strategies: list[str]) -> list[str]:
    """Those that can run here, with a line for each that cannot: Horovod is not built everywhere."""
    found = []
    for strategy in strategies:
        try:
            commands.check_launcher(strategy, commands.choose_launcher(strategy, None))
            found.append(strategy)
        except UsageError as error:
            warn(f"{strategy} NOT RUN: {error}")
    return found


def _run(options: StudyOptions, recipe: str, strategy: str, workers: int, run_dir: Path) -> str:
    """Train unless that is done already; returns why it failed, or nothing."""
    recipe_id = load_recipe(recipe, options.overrides).recipe_id
    if read_status(run_dir) == ("completed", recipe_id):
        return ""
    if run_dir.exists():
        shutil.rmtree(run_dir)
    training = Options(
        recipe=recipe, run_dir=run_dir, set=[options.overrides], accumulation=MICRO_BATCHES // workers
    )
    command = commands.training_command(strategy, workers, training)
    environment = {
        **training_environment(strategy),
        LAUNCHED_BY: commands.choose_launcher(strategy, None),
    }
    return run_quietly(command, environment, run_dir)[1]


if __name__ == "__main__":
    raise SystemExit(guarded(main))
