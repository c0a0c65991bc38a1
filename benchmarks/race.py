"""Our step against the bare loop: how much slower, how much larger, how much later to start.

    python -m benchmarks.race --strategies torch-single,torch-ddp --recipe digits-resnet18 --set model.width=32

Writes a section for each strategy into benchmarks/RESULTS.md. How the figures are made: benchmarks/README.md.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.contestant import Entry
from benchmarks.duel import MAX_HALF_WIDTH, Effort, Side, WindowPlan, cpu_ratio, duel, step_ratio
from benchmarks.interval import Ratio, ratio_of_medians
from benchmarks.results import RESULTS, section, table_line, table_row, verdict, write_section
from launchers.commands import LAUNCHERS, check_launcher, choose_launcher, training_command
from launchers.environment import CHECKOUT, training_environment
from recipes.recipe import load_recipe
from training.options import Options, Overrides, flattened, parse
from training.problems import EXIT_DONE, UsageError
from training.process import guarded

HERE = Path(__file__).resolve().parent
HEADER = ("", "ours", "bare loop", "ratio", "95 % interval", "target", "")
STEP_TARGET, UPPER_END_TARGET, MEMORY_TARGET, START_TARGET = 1.00, 1.02, 1.05, 1.10


@dataclass
class RaceOptions(Effort):
    """Race our step against the bare loop of the same framework."""

    strategies: str = ",".join(LAUNCHERS)
    """Which, separated by commas."""
    workers: int = 2
    """Workers of every strategy but the -single ones."""
    recipe: str = "digits-resnet18"
    """Name in recipes/, or path of a .toml file; its data is digits or stdlib."""
    set: Overrides = field(default_factory=list)
    """Override keys of the recipe: --set model.width=32."""
    results: Path = RESULTS
    """The Markdown file to write into."""


def main() -> int:
    """One section a strategy, written as soon as it is there."""
    options = parse(RaceOptions, "python -m benchmarks.race")
    given = flattened(options.set)
    for strategy in startable_strategies(options.strategies, LAUNCHERS):
        workers = 1 if strategy.endswith("-single") else options.workers
        title = f"{strategy}, {workers} worker{'s' * (workers > 1)}: {', '.join((options.recipe, *given))}"
        print(title)
        given_to_both = (strategy, workers, options.recipe, race_overrides(given, options))
        ours, bare = duel(partial(our_entry, *given_to_both), partial(bare_entry, *given_to_both), options)
        text = section(title, HEADER, rows(strategy, ours, bare), notes(ours, bare, options))
        print(text)
        write_section(options.results, title, text)
    return EXIT_DONE


def startable_strategies(names: str, known: Collection[str]) -> list[str]:
    """The strategies in `names`, separated by commas. Raises UsageError before any of them has run in vain."""
    strategies = names.split(",")
    for strategy in strategies:
        if strategy not in known:
            raise UsageError(f"--strategies: found {strategy!r}, expected some of: {', '.join(known)}")
        check_launcher(strategy, choose_launcher(strategy, None))
    return strategies


def race_overrides(given: tuple[str, ...], effort: WindowPlan) -> tuple[str, ...]:
    """The recipe's keys as `given`, with windows for reports and nothing between them."""
    return (*given, f"steps={effort.steps}", f"run.log_every={effort.window_steps}", "run.eval_every=0")


def our_entry(strategy: str, workers: int, recipe: str, overrides: tuple[str, ...], folder: Path) -> Entry:
    """Our script, started as launchers.train starts it."""
    options = Options(recipe=recipe, run_dir=folder, set=[overrides])
    command = training_command(strategy, workers, options)
    return Entry(
        "ours",
        command,
        training_environment(strategy),
        folder / "metrics.jsonl",
        has_launcher=_has_launcher(strategy),
    )


def bare_entry(strategy: str, workers: int, recipe: str, overrides: tuple[str, ...], folder: Path) -> Entry:
    """The bare loop, started by the same launcher with the same environment."""
    command = training_command(strategy, workers, Options(recipe=recipe))
    module = f"distributed.{strategy.replace('-', '_')}"
    launcher = command[: command.index(module) - 1]
    script = HERE / ("bare_tf.py" if strategy.startswith("tf-") else "bare_torch.py")
    folder.mkdir()
    recipe_file = folder / "recipe.json"
    recipe_file.write_text(json.dumps(load_recipe(recipe, overrides).as_dict()))
    arguments = [str(script), str(recipe_file), str(workers), *(["horovod"] if "horovod" in strategy else [])]
    return Entry(
        "the bare loop",
        [*launcher, *arguments],
        training_environment(strategy),
        has_launcher=_has_launcher(strategy),
    )


def _has_launcher(strategy: str) -> bool:
    return "direct" not in LAUNCHERS[strategy]


def rows(strategy: str, ours: Side, bare: Side) -> list[str]:
    """The table: absolute values, their ratio, and whether it meets the issue's target."""
    memory = _ratio(ours.peak_memory_bytes, bare.peak_memory_bytes)
    step, cpu = step_ratio(ours, bare), cpu_ratio(ours, bare)
    compiles = strategy.startswith("tf-")
    starts = [
        [
            start.step_time_s - first * compiles
            for start, first in zip(side.first_steps, side.compile_s, strict=True)
        ]
        for side in (ours, bare)
    ]
    lines = [
        table_row("time of a step", step, 1e3, "ms", STEP_TARGET, step.value),
        derived_row("upper end of its interval", step.high, UPPER_END_TARGET),
        derived_row("its interval, to the farther side", step.half_width, MAX_HALF_WIDTH),
        table_row("CPU time of a step, all ranks", cpu, 1e3, "ms"),
        table_row("peak memory in training, all ranks", memory, 2**-20, "MiB", MEMORY_TARGET, memory.value),
    ]
    start = _ratio(*starts)
    name = "command to first step" + " but its compilation" * compiles
    lines.append(table_row(name, start, 1, "s", START_TARGET, start.value))
    cpu_starts = [[start.cpu_time_s for start in side.first_steps] for side in (ours, bare)]
    lines.append(table_row("CPU time to first step, all ranks", _ratio(*cpu_starts), 1, "s"))
    if compiles:
        lines.append(
            table_row("first step with its compilation", _ratio(ours.compile_s, bare.compile_s), 1, "s")
        )
    return lines


def derived_row(name: str, value: float, target: float) -> str:
    """What else the row above has a target for."""
    return table_line([name, "", "", f"{value:.3f}", "", *verdict(value, target)])


def notes(ours: Side, bare: Side, effort: Effort) -> str:
    """What stands below the table."""
    whole = ours.whole_run_memory_bytes / 2**20
    return (
        f"{len(ours.windows)} pairs of processes, {effort.windows} windows of {effort.window_steps} steps each. With "
        f"the evaluation and the checkpoint at the end, which the bare loop has not, ours peaks at {whole:,.0f} MiB."
    )


def _ratio(ours: list[float], theirs: list[float]) -> Ratio:
    return ratio_of_medians([[value] for value in ours], [[value] for value in theirs])


if __name__ == "__main__":
    assert (CHECKOUT / "benchmarks") == HERE
    raise SystemExit(guarded(main))
