"""What a checkpoint costs: steps taken while one is written against steps without, and how long training waits.

    python -m benchmarks.race_checkpoints --strategies torch-single

Writes a section into benchmarks/RESULTS.md.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.interval import ratio_of_medians
from benchmarks.race import startable_strategies
from benchmarks.results import RESULTS, section, table_row, write_section
from launchers.commands import LAUNCHERS, training_command
from launchers.environment import training_environment
from models.specs import parameter_count
from recipes.recipe import Recipe, load_recipe
from telemetry.run_log import read_rows
from training.options import Options, Overrides, flattened, parse
from training.problems import EXIT_DONE
from training.process import guarded
from training.state import MOMENTS, parameter_dtype

STEP_TARGET, WAIT_TARGET = 1.05, 0.05
LARGE = (
    *("model.num_layers=6", "model.num_heads=8", "model.width=768", "model.context=16"),
    "data.global_batch=4",
)
"""stdlib-gpt with 513 MB of parameters and moments, and steps of a fraction of a second on one core."""
WARMUP_STEPS = 3
HEADER = ("", "with", "without", "ratio", "95 % interval", "target", "")


@dataclass
class CheckpointOptions:
    """Race steps while a checkpoint is written against steps without."""

    strategies: str = "torch-single"
    """Which, separated by commas."""
    workers: int = 2
    """Workers of every strategy but the -single ones."""
    recipe: str = "stdlib-gpt"
    """Name in recipes/, or path of a .toml file."""
    set: Overrides = field(default_factory=lambda: [LARGE])
    """Override keys of the recipe; unless given, sizes that make a state of 513 MB."""
    processes: int = 8
    """Runs, one after the other."""
    saves: int = 13
    """Checkpoints in a run; the first, into memory that is fresh, is left out of the waits."""
    every: int = 8
    """Steps from one to the next: twice what a write lasts for, so that both kinds of step meet the same machine."""
    results: Path = RESULTS
    """The Markdown file to write into."""


@dataclass
class Run:
    """Of one process, in seconds: steps while a checkpoint was written, and without; each save's wait and write."""

    during_s: list[float] = field(default_factory=list)
    without_s: list[float] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    writes_s: list[float] = field(default_factory=list)


def main() -> int:
    """One section a strategy."""
    options = parse(CheckpointOptions, "python -m benchmarks.race_checkpoints")
    given = flattened(options.set)
    for strategy in startable_strategies(options.strategies, LAUNCHERS):
        workers = 1 if strategy.endswith("-single") else options.workers
        title = f"checkpoint every {options.every} steps, {strategy} x {workers}: {options.recipe}"
        print(title)
        steps = options.every * (options.saves + 1)
        overrides = (
            *(*given, f"steps={steps}", "run.log_every=1", "run.eval_every=-1"),
            f"run.checkpoint_every={options.every}",
        )
        runs = []
        for number in range(options.processes):
            runs.append(measured(strategy, workers, options.recipe, overrides))
            print(f"  run {number + 1}: {summary(runs[-1])}", file=sys.stderr)
        recipe = load_recipe(options.recipe, overrides)
        text = section(title, HEADER, rows(runs), notes(runs, recipe, given))
        print(text)
        write_section(options.results, title, text)
    return EXIT_DONE


def measured(strategy: str, workers: int, recipe: str, overrides: tuple[str, ...]) -> Run:
    """Train once with our script, as launchers.train starts it. Raises RuntimeError where it fails."""
    with tempfile.TemporaryDirectory(prefix="race-") as folder:
        run_dir = Path(folder, "run")
        options = Options(recipe=recipe, run_dir=run_dir, set=[overrides], telemetry_interval_s=0.0)
        ended = subprocess.run(
            training_command(strategy, workers, options),
            env={**os.environ, **training_environment(strategy)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise RuntimeError(f"{strategy} ended with {ended.returncode}:\n{ended.stderr[-2000:]}")
        return divided(read_rows(run_dir / "timing-0.jsonl"))


def divided(timing: list[dict]) -> Run:
    """Steps that lie within a write, and steps that no write touched, by the clock of their rows.

    A write begins where the window of the step after its save does. Steps that it covers in part belong to neither.
    """
    ends = {row["step"]: row["t_monotonic_s"] for row in timing}
    begins = {row["step"]: row["t_monotonic_s"] - row["step_time_s"] for row in timing}
    saved = [row for row in timing if "checkpoint_step" in row]
    writes = [
        (begins[step], begins[step] + row["checkpoint_write_s"])
        for row in saved
        if (step := row["checkpoint_step"] + 1) in begins
    ]
    run = Run(
        waits_s=[row["checkpoint_wait_s"] for row in saved],
        writes_s=[row["checkpoint_write_s"] for row in saved],
    )
    for row in timing:
        begin, end = begins[row["step"]], ends[row["step"]]
        if any(first <= begin and end <= last for first, last in writes):
            run.during_s.append(row["step_time_s"])
        elif row["step"] > WARMUP_STEPS and all(end <= first or last <= begin for first, last in writes):
            run.without_s.append(row["step_time_s"])
    if not run.during_s or not run.without_s or len(saved) < 2:
        raise RuntimeError(
            f"{len(run.during_s)} steps within {len(saved)} writes and {len(run.without_s)} outside do not suffice; "
            "make --every or --saves larger, or the steps shorter"
        )
    return run


def rows(runs: list[Run]) -> list[str]:
    """The two ratios; a process is what is drawn again for their intervals."""
    step = ratio_of_medians(*same_speed(runs))
    wait = ratio_of_medians([run.waits_s[1:] for run in runs], [run.writes_s[1:] for run in runs])
    wait_name = "training's wait for a checkpoint, and its write"
    return [
        table_row("time of a step, with a checkpoint being written", step, 1e3, "ms", STEP_TARGET, step.high),
        table_row(wait_name, wait, 1e3, "ms", WAIT_TARGET, wait.high),
    ]


def same_speed(runs: list[Run]) -> tuple[list[list[float]], list[list[float]]]:
    """Steps within a write and without, each process's scaled so that all are equally fast without one.

    The machine is not as fast for every process, and not every one has as many steps within a write: unscaled, the
    medians over all would compare processes, not steps.
    """
    own = [float(np.median(run.without_s)) for run in runs]
    scales = [float(np.median(own)) / each for each in own]
    during = [[scale * step for step in run.during_s] for run, scale in zip(runs, scales, strict=True)]
    without = [[scale * step for step in run.without_s] for run, scale in zip(runs, scales, strict=True)]
    return during, without


def notes(runs: list[Run], recipe: Recipe, given: tuple[str, ...]) -> str:
    """What stands below the table."""
    tensors = 1 + len(MOMENTS[recipe.optimizer.name])
    megabytes = parameter_count(recipe.model) * parameter_dtype(recipe).itemsize * tensors / 1e6
    during, without = (sum(len(getattr(run, key)) for run in runs) for key in ("during_s", "without_s"))
    first = ", ".join(f"{1e3 * run.waits_s[0]:.0f}" for run in runs)
    return (
        f"A state of {megabytes:,.0f} MB ({', '.join(given)}). {len(runs)} processes, {during} steps within a write "
        f"and {without} outside. The first save of a process copies into fresh memory and is left out of the wait; "
        f"it took {first} ms."
    )


def summary(run: Run) -> str:
    """One line of progress."""
    step = ratio_of_medians([run.during_s], [run.without_s])
    waits = ", ".join(f"{1e3 * wait:.0f}" for wait in run.waits_s)
    writes = ", ".join(f"{1e3 * write:.0f}" for write in run.writes_s)
    return (
        f"steps {step.value:.3f} ({len(run.during_s)} within a write), waits {waits} ms, writes {writes} ms"
    )


if __name__ == "__main__":
    raise SystemExit(guarded(main))
