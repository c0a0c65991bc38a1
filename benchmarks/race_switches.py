"""What each switch of a recipe's [performance] gains: our step with it against our step without, in one table.

    python -m benchmarks.race_switches --strategies torch-single --switches performance.compile=true

Writes a section into benchmarks/RESULTS.md.
"""

import re
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from benchmarks.contestant import Entry
from benchmarks.duel import Effort, Side, duel, step_ratio
from benchmarks.interval import ratio_of_medians
from benchmarks.race import our_entry, race_overrides, startable_strategies
from benchmarks.results import RESULTS, section, table_line, write_section
from benchmarks.verify_switches import CASES, RECIPES, strategies_with
from launchers.commands import LAUNCHERS
from recipes.recipe import load_recipe
from training.options import Overrides, flattened, parse
from training.problems import EXIT_DONE, UsageError
from training.process import guarded

VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*=")
"""How an override begins that is none of the recipe's but a variable of the environment."""
HEADER = ("switch", "strategy", "step without", "step with", "ratio", "95 % interval", "peak memory", "pairs")


@dataclass
class SwitchesOptions(Effort):
    """Race a strategy with a switch against the same without."""

    pairs: int = 4
    """Pairs of processes at least."""
    max_pairs: int = 12
    """Pairs at most: beyond `pairs` only until the 95 % interval reaches no further than 1 % to either side."""
    max_minutes: float = 3.0
    """No new pair of a row after this time."""
    strategies: str = "torch-single"
    """Which, separated by commas; several workers each but for the -single ones."""
    switches: str = "performance.compile=true"
    """`all`, or overrides of the side with, separated by commas, those of one switch by `+`; NAME=VALUE sets a variable
    of its environment. What a strategy does not have it leaves out."""
    workers: int = 2
    """Workers of every strategy but the -single ones."""
    recipe: str = "digits-resnet18"
    """Name in recipes/, or path of a .toml file."""
    set: Overrides = field(default_factory=list)
    """Override keys of the recipe, for both sides."""
    results: Path = RESULTS
    """The Markdown file to write into."""


def main() -> int:
    """One table, written anew with each row that is there."""
    options = parse(SwitchesOptions, "python -m benchmarks.race_switches")
    strategies = startable_strategies(options.strategies, LAUNCHERS)
    given = flattened(options.set)
    switches = (
        switches_of(load_recipe(options.recipe, given).model.family, strategies)
        if options.switches == "all"
        else [tuple(switch.split("+")) for switch in options.switches.split(",")]
    )
    check(options.recipe, given, switches, strategies)
    of_switches = () if options.switches == "all" else (options.switches,)
    title = f"Switches, {', '.join((options.recipe, *given))}: {', '.join((*strategies, *of_switches))}"
    print(title)
    rows: list[str] = []
    for strategy in strategies:
        workers = 1 if strategy.endswith("-single") else options.workers
        for switch in switches:
            if not has(strategy, switch):
                continue
            print(f"{strategy}, {' '.join(switch)}")
            common = (strategy, workers, options.recipe)
            without = partial(our_entry, *common, race_overrides(given, options))
            having = partial(switched_entry, *common, given, switch, options)
            rows.append(row(switch, f"{strategy} x {workers}", *duel(without, having, options)))
            text = section(title, HEADER, rows, notes(options))
            write_section(options.results, title, text)
    print(text)
    return EXIT_DONE


def switched_entry(
    strategy: str,
    workers: int,
    recipe: str,
    given: tuple[str, ...],
    switch: tuple[str, ...],
    effort: Effort,
    folder: Path,
) -> Entry:
    """Our script with the switch, in its recipe or its environment."""
    variables = dict(each.split("=", 1) for each in switch if VARIABLE.match(each))
    overrides = (each for each in switch if not VARIABLE.match(each))
    entry = our_entry(strategy, workers, recipe, race_overrides((*given, *overrides), effort), folder)
    return replace(entry, environment={**entry.environment, **variables})


def switches_of(family: str, strategies: list[str]) -> list[tuple[str, ...]]:
    """All that one of the strategies has for such models, at values that are no default."""
    return [
        (f"performance.{switch}",)
        for switch, case in CASES.items()
        if RECIPES[family] in case.recipes and {*case.strategies} & {*strategies}
    ]


def has(strategy: str, switch: tuple[str, ...]) -> bool:
    """Whether the strategy does something at each of the overrides."""
    return all(VARIABLE.match(each) or strategy in strategies_with(each) for each in switch)


def check(
    recipe: str, given: tuple[str, ...], switches: list[tuple[str, ...]], strategies: list[str]
) -> None:
    """Raises UsageError for a switch that changes nothing, or more than speed."""
    for switch in switches:
        name = "+".join(switch)
        overrides = tuple(each for each in switch if not VARIABLE.match(each))
        for override in overrides:
            if not override.startswith("performance."):
                raise UsageError(
                    f"--switches: found {override!r}, expected performance.key=value or NAME=VALUE"
                )
        if overrides and load_recipe(recipe, (*given, *overrides)) == load_recipe(recipe, given):
            raise UsageError(f"--switches: {name} is what {recipe} says already; name another value")
        if not any(has(strategy, switch) for strategy in strategies):
            raise UsageError(
                f"--switches: none of {', '.join(strategies)} has {name}; docs/performance.md says which do"
            )


def row(switch: tuple[str, ...], label: str, without: Side, having: Side) -> str:
    """Both times of a step, their ratio (below 1 the switch gains) and the ratio of the memory of all ranks."""
    step = step_ratio(having, without)
    ours, theirs = ([[value] for value in side.peak_memory_bytes] for side in (having, without))
    memory = ratio_of_medians(ours, theirs)
    name = ", ".join(override.removeprefix("performance.") for override in switch)
    times = [f"{seconds * 1e3:,.4g} ms" for seconds in (step.theirs, step.ours)]
    interval = f"{step.low:.3f} to {step.high:.3f}"
    pairs = str(len(without.windows))
    return table_line(
        [f"`{name}`", label, *times, f"{step.value:.3f}", interval, f"{memory.value:.2f}", pairs]
    )


def notes(effort: Effort) -> str:
    """What stands below the table."""
    return (
        "Ratio: the time of a step with the switch over that without; peak memory: the same ratio, over all ranks. "
        f"{effort.windows} windows of {effort.window_steps} steps each in a pair."
    )


if __name__ == "__main__":
    raise SystemExit(guarded(main))
