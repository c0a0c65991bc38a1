"""Every distributed strategy against its own -single base: what more workers gain on the same model, in one table.

    python -m benchmarks.race_strategies --recipes digits-resnet18,stdlib-gpt

The workers share the recipe's global batch (strong scaling). Writes a section into benchmarks/RESULTS.md.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.duel import Effort, Side, duel, step_ratio
from benchmarks.race import our_entry, race_overrides, startable_strategies
from benchmarks.results import RESULTS, section, table_line, write_section
from launchers.commands import LAUNCHERS
from training.options import Overrides, flattened, parse
from training.problems import EXIT_DONE, UsageError
from training.process import guarded

DISTRIBUTED = tuple(strategy for strategy in LAUNCHERS if not strategy.endswith("-single"))


@dataclass
class StrategiesOptions(Effort):
    """Race the distributed strategies against one worker of the same framework."""

    pairs: int = 4
    """Pairs of processes at least."""
    max_pairs: int = 12
    """Pairs at most: beyond `pairs` only until the 95 % interval reaches no further than 1 % to either side."""
    max_minutes: float = 4.0
    """No new pair of a row after this time."""
    strategies: str = ",".join(DISTRIBUTED)
    """Which, separated by commas."""
    workers: int = 2
    """Workers of each; with 1 the table shows what the strategy costs where nothing is exchanged."""
    recipes: str = "digits-resnet18,stdlib-gpt"
    """Names in recipes/, or paths of .toml files, separated by commas."""
    set: Overrides = field(default_factory=list)
    """Override keys of every recipe, for both sides."""
    results: Path = RESULTS
    """The Markdown file to write into."""


def main() -> int:
    """One table, written anew with each row that is there."""
    options = parse(StrategiesOptions, "python -m benchmarks.race_strategies")
    if options.workers < 1:
        raise UsageError(f"--workers: found {options.workers}, expected 1 or more")
    strategies = startable_strategies(options.strategies, DISTRIBUTED)
    recipes = options.recipes.split(",")
    given = flattened(options.set)
    workers = f"{options.workers} worker{'s' * (options.workers > 1)}"
    title = f"Strategies, {workers} against -single: {', '.join((*recipes, *given))}"
    print(title)
    rows: list[str] = []
    for recipe in recipes:
        for strategy in strategies:
            print(f"{strategy}, {recipe}")
            overrides = race_overrides(given, options)
            base = partial(our_entry, base_of(strategy), 1, recipe, overrides)
            distributed = partial(our_entry, strategy, options.workers, recipe, overrides)
            rows.append(row(recipe, strategy, options.workers, *duel(base, distributed, options)))
            text = section(title, header(options.workers), rows, notes(options))
            write_section(options.results, title, text)
    print(text)
    return EXIT_DONE


def base_of(strategy: str) -> str:
    """The strategy of one worker on the same framework."""
    return f"{strategy.partition('-')[0]}-single"


def header(workers: int) -> tuple[str, ...]:
    """The table's columns."""
    times = ("step of -single", f"step of {workers} worker{'s' * (workers > 1)}")
    return ("model", "strategy", *times, "speed-up", "95 % interval", "efficiency", "pairs")


def row(recipe: str, strategy: str, workers: int, base: Side, distributed: Side) -> str:
    """Both times of a step, the speed-up and what share of `workers` that is."""
    speed_up = step_ratio(base, distributed)
    times = [f"{seconds * 1e3:,.4g} ms" for seconds in (speed_up.ours, speed_up.theirs)]
    interval = f"{speed_up.low:.3f} to {speed_up.high:.3f}"
    efficiency = f"{speed_up.value / workers:.1%}"
    pairs = str(len(base.windows))
    return table_line([recipe, strategy, *times, f"{speed_up.value:.3f}", interval, efficiency, pairs])


def notes(effort: Effort) -> str:
    """What stands below the table."""
    return (
        "The workers share the recipe's global batch, one core each; -single has all of it and one core. Speed-up: "
        "the time of a step of -single over that of the workers; efficiency: speed-up over the number of workers. "
        f"{effort.windows} windows of {effort.window_steps} steps each in a pair."
    )


if __name__ == "__main__":
    raise SystemExit(guarded(main))
