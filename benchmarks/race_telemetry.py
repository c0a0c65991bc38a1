"""What telemetry costs: training with a sampler at 10 Hz against training without, and the sampler's own time.

    python -m benchmarks.race_telemetry --strategies torch-single --recipe digits-resnet18

Writes a section into benchmarks/RESULTS.md.
"""

import tempfile
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships none

from benchmarks.contestant import Entry
from benchmarks.duel import Effort, Side, cpu_ratio, duel, step_ratio
from benchmarks.race import our_entry, race_overrides, startable_strategies
from benchmarks.results import RESULTS, section, table_line, table_row, write_section
from launchers.commands import LAUNCHERS
from telemetry import sampling
from training.options import Overrides, flattened, parse
from training.problems import EXIT_DONE
from training.process import guarded

STEP_TARGET = 1.005
SAMPLER_TARGET_PERCENT = 0.5
SETTLES_S = 2.0
HEADER = ("", "with", "without", "ratio", "95 % interval", "target", "")


@dataclass
class TelemetryOptions(Effort):
    """Race training with a sampler against training without one."""

    strategies: str = "torch-single"
    """Which, separated by commas."""
    workers: int = 2
    """Workers of every strategy but the -single ones."""
    recipe: str = "digits-resnet18"
    """Name in recipes/, or path of a .toml file."""
    set: Overrides = field(default_factory=list)
    """Override keys of the recipe."""
    interval_s: float = 0.1
    """The sampler's."""
    alone_s: float = 30.0
    """How long the sampler's own time is measured for."""
    results: Path = RESULTS
    """The Markdown file to write into."""


def main() -> int:
    """One section a strategy."""
    options = parse(TelemetryOptions, "python -m benchmarks.race_telemetry")
    given = flattened(options.set)
    for strategy in startable_strategies(options.strategies, LAUNCHERS):
        workers = 1 if strategy.endswith("-single") else options.workers
        title = f"telemetry every {options.interval_s:g} s, {strategy} x {workers}: {options.recipe}"
        print(title)
        common = (strategy, workers, options.recipe, race_overrides(given, options))
        sampled = partial(entry, *common, options.interval_s)
        share = sampler_percent_of_a_core(options.interval_s, options.alone_s)
        text = section(title, HEADER, rows(*duel(sampled, partial(entry, *common, 0.0), options), share), "")
        print(text)
        write_section(options.results, title, text)
    return EXIT_DONE


def entry(
    strategy: str, workers: int, recipe: str, overrides: tuple[str, ...], interval_s: float, folder: Path
) -> Entry:
    """Our script with a sampler at this interval; 0 is without."""
    plain = our_entry(strategy, workers, recipe, overrides, folder)
    name = "with telemetry" if interval_s else "without"
    return replace(plain, name=name, command=[*plain.command, "--telemetry-interval-s", str(interval_s)])


def sampler_percent_of_a_core(interval_s: float, seconds: float) -> float:
    """CPU time of a sampler by itself, once it has started, as the kernel counts it."""
    with tempfile.TemporaryDirectory(prefix="race-") as folder:
        running = sampling.start(Path(folder), interval_s)
        assert running.pid is not None
        time.sleep(SETTLES_S)
        clock = ~running.pid << 3 | 2  # <linux/posix-timers_types.h>: CPUCLOCK_SCHED
        started_s, before_s = time.monotonic(), time.clock_gettime(clock)
        time.sleep(seconds)
        used_s, elapsed_s = time.clock_gettime(clock) - before_s, time.monotonic() - started_s
        assert psutil.Process(running.pid).status() != psutil.STATUS_ZOMBIE
        running.close()
    return 100 * used_s / elapsed_s


def rows(sampled: Side, plain: Side, share: float) -> list[str]:
    """Times of a step with and without, and what the sampler takes for itself."""
    step, cpu = step_ratio(sampled, plain), cpu_ratio(sampled, plain)
    met = "met" if share <= SAMPLER_TARGET_PERCENT else "**missed**"
    alone = ["the sampler's own time, % of one core", f"{share:.2f}", "", "", ""]
    return [
        table_row("time of a step", step, 1e3, "ms", STEP_TARGET, step.value),
        table_row("CPU time of a step, the sampler included", cpu, 1e3, "ms"),
        table_line([*alone, f"≤ {SAMPLER_TARGET_PERCENT}", met]),
    ]


if __name__ == "__main__":
    raise SystemExit(guarded(main))
