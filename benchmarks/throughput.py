"""Samples and tokens a second, and how near that comes to what the device can do, measured in the same run.

    python -m benchmarks.throughput --recipes resnet50-synthetic,gpt2-124m-synthetic
    python -m benchmarks.throughput --recipes gpt2-124m-synthetic --strategies torch-ddp --workers 8

Processes of all strategies take turns with the probe of the device. Writes a section into benchmarks/RESULTS.md. What
takes the rest of a step, --profile tells (docs/performance.md).
"""

import json
import statistics
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contestant import Contestant, Window
from benchmarks.duel import WindowPlan
from benchmarks.interval import Ratio, ratio_of_medians
from benchmarks.race import our_entry, race_overrides, startable_strategies
from benchmarks.results import RESULTS, section, table_line, write_section
from launchers.commands import LAUNCHERS
from launchers.environment import python_of, training_environment
from models.specs import GptSpec, training_flops
from recipes.recipe import Recipe, load_recipe
from scaling.efficiency import PEAK_FLOPS
from training.options import Overrides, flattened, parse
from training.problems import EXIT_DONE
from training.process import guarded

HEADER = (
    "model",
    "precision",
    "strategy",
    "step",
    "a second",
    "95 % interval",
    "FLOP/s a worker",
    "of the matmul rate",
    "MFU",
    "peak memory",
)


@dataclass
class ThroughputOptions(WindowPlan):
    """Measure throughput beside the device's own limits."""

    processes: int = 4
    """Of each strategy, with the probe before each round."""
    strategies: str = "torch-single"
    """Which, separated by commas."""
    workers: int = 1
    """Workers of every strategy but the -single ones."""
    recipes: str = "digits-resnet18,stdlib-gpt"
    """Names in recipes/, or paths of .toml files, separated by commas."""
    set: Overrides = field(default_factory=list)
    """Override keys of every recipe."""
    results: Path = RESULTS
    """The Markdown file to write into."""

    def workers_of(self, strategy: str) -> int:
        """The number that is its own."""
        return 1 if strategy.endswith("-single") else self.workers


@dataclass
class Seen:
    """Of one strategy: windows of each process, and each process's peak memory in bytes over all ranks."""

    windows: list[list[Window]] = field(default_factory=list)
    peak_memory_bytes: list[float] = field(default_factory=list)


def main() -> int:
    """One table, written anew with each model that is there."""
    options = parse(ThroughputOptions, "python -m benchmarks.throughput")
    strategies = startable_strategies(options.strategies, LAUNCHERS)
    given, names = flattened(options.set), options.recipes.split(",")
    title = f"Throughput, {', '.join((*names, *given))}: {', '.join(strategies)} x {options.workers}"
    print(title)
    rows: list[str] = []
    limits: list[str] = []
    for name in names:
        recipe = load_recipe(name, given)
        seen, probes = measure(name, given, strategies, options)
        best = {
            key: statistics.median(probe[key] for probe in probes) for key in probes[0] if key != "device"
        }
        for strategy in strategies:
            workers = options.workers_of(strategy)
            rows.append(
                row(name, recipe, f"{strategy} x {workers}", workers, seen[strategy], best, probes[0])
            )
        limits.append(limit_note(name, recipe.precision, best))
        text = section(title, HEADER, rows, notes(limits, options))
        write_section(options.results, title, text)
    print(text)
    return EXIT_DONE


def measure(
    name: str, given: tuple[str, ...], strategies: Sequence[str], options: ThroughputOptions
) -> tuple[dict[str, Seen], list[dict[str, Any]]]:
    """What each strategy did, and what each probe of the device said."""
    seen: dict[str, Seen] = defaultdict(Seen)
    probes = []
    for _ in range(options.processes):
        probes.append(probe(load_recipe(name, given).precision))
        for strategy in strategies:
            with tempfile.TemporaryDirectory(prefix="race-") as folder:
                common = (strategy, options.workers_of(strategy), name, race_overrides(given, options))
                contestant = Contestant(our_entry(*common, Path(folder, "run")))
                seen[strategy].windows.append(run(contestant, options))
            seen[strategy].peak_memory_bytes.append(contestant.peak_memory_bytes)
    return seen, probes


def run(contestant: Contestant, plan: WindowPlan) -> list[Window]:
    """Its windows but those of the warm-up."""
    try:
        contestant.start()
        windows = [contestant.run_window() for _ in range(plan.warmup_windows + plan.windows)]
    finally:
        contestant.kill()
    return windows[plan.warmup_windows :]


def probe(precision: str) -> dict[str, Any]:
    """The row of benchmarks.limits_torch, in a process of its own. Raises CalledProcessError."""
    command = [*python_of("torch-single"), "-m", "benchmarks.limits_torch", precision]
    environment = training_environment("torch-single")
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    content: dict[str, Any] = json.loads(output)
    return content


def row(
    name: str,
    recipe: Recipe,
    label: str,
    workers: int,
    seen: Seen,
    best: dict[str, float],
    device: dict[str, Any],
) -> str:
    """Absolute figures with an interval, and their share of the device's limits; MFU where its peak is published."""
    step = step_s(seen)
    model = recipe.model
    is_text = isinstance(model, GptSpec)
    a_step = recipe.data.global_batch * (model.context if isinstance(model, GptSpec) else 1)
    unit = "tokens" if is_text else "images"
    flops_per_s = training_flops(model) * recipe.data.global_batch / step.ours / workers
    peak = PEAK_FLOPS.get(str(device["device"]), {}).get(recipe.precision)
    cells = [
        name,
        recipe.precision,
        label,
        f"{step.ours * 1e3:,.4g} ms",
        f"{a_step / step.ours:,.5g} {unit}",
        f"{a_step / step.high:,.5g} to {a_step / step.low:,.5g}",
        f"{flops_per_s / 1e9:,.4g} G",
        f"{flops_per_s / best['matmul_flops_per_s']:.1%}",
        "n/a" if peak is None else f"{flops_per_s / peak:.1%}",
        f"{statistics.median(seen.peak_memory_bytes) / 2**20:,.0f} MiB",
    ]
    return table_line(cells)


def step_s(seen: Seen) -> Ratio:
    """Seconds of a step with its interval: over 1."""
    times = [[window.step_time_s for window in process] for process in seen.windows]
    return ratio_of_medians(times, [[1.0]] * len(times))


def limit_note(name: str, precision: str, best: dict[str, float]) -> str:
    """The limits of a worker's device, as they were beside these runs, in one sentence."""
    matmul, copy = best["matmul_flops_per_s"] / 1e9, best["copy_bytes_per_s"] / 1e9
    rates = f"{precision} matrices at {matmul:,.4g} GFLOP/s, copied at {copy:,.4g} GB/s"
    return f"Beside {name} the device multiplied {rates}."


def notes(limits: Sequence[str], options: ThroughputOptions) -> str:
    """What stands below the table."""
    return (
        f"{' '.join(limits)} FLOP/s: those of the model's products and convolutions, three times the "
        "forward pass's; MFU: of the published peak. Peak memory: of the ranks on the host. "
        f"{options.processes} processes each, {options.windows} windows of {options.window_steps} steps."
    )


if __name__ == "__main__":
    raise SystemExit(guarded(main))
