"""A scaling-efficiency study: strategies x recipes x workers x nodes, weak and strong, repeated, and its report.

    python -m scaling.study --workers 1,2,4,8 --scaling weak,strong --recipes resnet50-synthetic
    python -m scaling.study --config my-study.toml        (the same names as the flags)

It can be interrupted at any time; the same command goes on where it stopped. Inside a Slurm allocation the workers are
started by srun, over as many of its nodes as --nodes says.
"""

import os
import shutil
import signal
import time
import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import FrameType

from launchers import commands
from launchers.child import run_quietly
from launchers.environment import training_environment
from launchers.nodes import Nodes
from scaling.forecast import Forecast, as_clock
from scaling.grid import WAYS, Grid, Planned
from scaling.ledger import Ledger
from scaling.link_probes import probe_links
from training.options import Options, Overrides, flattened, parse, warn
from training.problems import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED_EARLY, UsageError
from training.process import LAUNCHED_BY, guarded

PROGRAM = "python -m scaling.study"


@dataclass
class StudyOptions:
    """Measure how strategies scale on this machine, and report it."""

    name: str = "embedded"
    """The study lies in studies/NAME. One that is there already goes on."""
    config: Path | None = None
    """A TOML file with the same names as these flags; flags given beside it win."""
    recipes: str = "study-resnet,study-gpt"
    """Names or paths, separated by commas."""
    strategies: str = "all"
    """`all` that can run here, or names separated by commas. The -single base of each framework is added."""
    workers: str = "1,2"
    """Worker counts on one node, separated by commas."""
    nodes: str = "1"
    """Node counts, separated by commas; more than 1 needs a Slurm allocation. The bases run where 1 is among them."""
    workers_per_node: int | None = None
    """On several nodes: workers on each (default: the most of --workers)."""
    scaling: str = "weak"
    """weak (the recipe's batch is one worker's), strong (it is everybody's), or weak,strong."""
    repetitions: int = 3
    """How often each run is repeated, in a shuffled order."""
    decompose: bool = True
    """Also run each size without gradient exchange, which tells where the loss goes."""
    seed: int = 0
    """Of the order of the runs."""
    set: Overrides = field(default_factory=list)
    """Override keys of all the recipes: --set steps=200 run.log_every=10."""
    run_timeout_s: float = 3600.0
    """A run that takes longer is ended, and has failed."""
    retry_failed: bool = False
    """Run again what failed before."""
    dry_run: bool = False
    """Print the runs in their order, and do nothing."""
    collect: bool = False
    """Run nothing: put together what there is, and report it."""

    @property
    def overrides(self) -> tuple[str, ...]:
        """All of --set, in order."""
        return flattened(self.set)


class Interrupted(Exception):
    """Somebody wants us to stop; the run under way counts for nothing."""


def main() -> int:
    """Run what is missing, then report. Returns 1 where a run failed, 75 where it was told to stop."""
    options = read_options()
    grid = make_grid(options)
    grid.check()
    ledger = Ledger(Path("studies") / options.name)
    planned = grid.runs()
    if options.dry_run:
        print("\n".join(run.id for run in planned))
        return EXIT_DONE
    settings = asdict(options) | {"set": list(options.overrides)}
    for key in ("name", "config", "run_timeout_s", "retry_failed", "dry_run", "collect"):
        settings.pop(key)
    ledger.open(options.name, settings)
    try:
        if not options.collect:
            run_all(options, ledger, planned)
            several = [name for name in grid.strategies if not name.endswith("-single")]
            if max(workers for workers, _ in grid.sizes) > 1:
                probe_links(ledger.folder, {name: launcher_of(name) for name in several})
    except Interrupted as stop:
        warn(f"{stop}: the study stops here; the same command goes on")
        return EXIT_STOPPED_EARLY
    finally:
        study = ledger.collect(planned)
    return report(ledger.folder, study)


def read_options() -> StudyOptions:
    """The command line over --config over the defaults. Raises UsageError."""
    options = parse(StudyOptions, PROGRAM)
    if options.config is None:
        return options
    try:
        given = tomllib.loads(options.config.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"--config {options.config}: {error}; expected a TOML file") from error
    known = {each.name: each for each in fields(StudyOptions)}
    for key, value in given.items():
        if key not in known:
            raise UsageError(f"{options.config}: unknown key {key!r}, expected some of: {', '.join(known)}")
        if isinstance(value, list):
            given[key] = [tuple(map(str, value))] if key == "set" else ",".join(map(str, value))
    return parse(StudyOptions, PROGRAM, default=StudyOptions(**given))


def make_grid(options: StudyOptions) -> Grid:
    """What the options describe. Raises UsageError for what does not make sense."""
    known = list(commands.LAUNCHERS)
    chosen = startable(known) if options.strategies == "all" else options.strategies.split(",")
    for strategy in chosen:
        if strategy not in known:
            raise UsageError(f"--strategies: found {strategy!r}, expected all or some of: {','.join(known)}")
    ways = options.scaling.split(",")
    if not set(ways) <= set(WAYS):
        raise UsageError(f"--scaling: found {options.scaling!r}, expected weak, strong or weak,strong")
    if options.repetitions < 1:
        raise UsageError(f"--repetitions: found {options.repetitions}, expected an integer of 1 or more")
    return Grid(
        options.recipes.split(","),
        sorted(set(chosen), key=known.index),
        sizes(options),
        ways,
        options.repetitions,
        options.decompose,
        options.overrides,
        options.seed,
    )


def sizes(options: StudyOptions) -> list[tuple[int, int]]:
    """(workers, nodes) of each size."""
    workers = _numbers("--workers", options.workers)
    nodes = _numbers("--nodes", options.nodes)
    if max(nodes) > 1 and "SLURM_JOB_ID" not in os.environ and not (options.dry_run or options.collect):
        raise UsageError(
            f"--nodes: found {options.nodes}, but this is no Slurm allocation; use sbatch slurm/scaling_study.sbatch"
        )
    per_node = options.workers_per_node or max(workers)
    on_one = [(count, 1) for count in workers] if 1 in nodes else []
    return [*on_one, *((count * per_node, count) for count in nodes if count > 1)]


def _numbers(flag: str, text: str) -> list[int]:
    found = text.split(",")
    if not all(number.isdecimal() and int(number) for number in found):
        raise UsageError(f"{flag}: found {text!r}, expected integers of 1 or more, separated by commas")
    return sorted({int(number) for number in found})


def startable(strategies: list[str]) -> list[str]:
    """Those that can run here, with a line for each that cannot: Horovod is not built everywhere."""
    found = []
    for strategy in strategies:
        try:
            commands.check_launcher(strategy, launcher_of(strategy))
            found.append(strategy)
        except UsageError as error:
            warn(f"{strategy} NOT RUN: {error}")
    return found


def launcher_of(strategy: str) -> str:
    """srun in an allocation, else the strategy's own."""
    in_allocation = "SLURM_JOB_ID" in os.environ and "srun" in commands.LAUNCHERS[strategy]
    return commands.choose_launcher(strategy, "srun" if in_allocation else None)


def run_all(options: StudyOptions, ledger: Ledger, planned: list[Planned]) -> None:
    """Run what has not ended yet, with a line a run. Raises Interrupted."""
    endings = {run: ledger.ending(run) for run in planned}
    if options.retry_failed:
        for run, ended in endings.items():
            if ended and ended["state"] == "failed":
                ledger.forget(run)
                endings[run] = None
    missing = [run for run, ended in endings.items() if ended is None]
    forecast = Forecast([(run, ended["wall_s"]) for run, ended in endings.items() if ended])
    started, in_runs_s = time.monotonic(), 0.0
    kept = f" ({len(planned) - len(missing)} are there already)" if len(missing) < len(planned) else ""
    print(f"{len(planned)} runs{kept}, about {as_clock(forecast.left_s(missing))}", flush=True)
    previous = {number: signal.signal(number, _interrupt) for number in INTERRUPTS}
    try:
        for number, run in enumerate(missing, start=1):
            run_started = time.monotonic()
            why = run_one(options, ledger, run)
            wall_s = time.monotonic() - run_started
            in_runs_s += wall_s
            ledger.record(run, len(planned) - len(missing) + number, why, wall_s)
            forecast.add(run, wall_s)
            left = as_clock(forecast.left_s(missing[number:]))
            told = f"FAILED: {why}" if why else f"{wall_s:.1f} s"
            print(f"[{number}/{len(missing)}] {run.id}: {told}, {left} left", flush=True)
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
    if missing:
        overhead = 1 - in_runs_s / (time.monotonic() - started)
        print(f"all runs took {as_clock(time.monotonic() - started)}, {overhead:.1%} of it between the runs")


INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(signal.Signals(number).name)


def run_one(options: StudyOptions, ledger: Ledger, run: Planned) -> str:
    """Train as planned; returns why that failed, or nothing."""
    run_dir = ledger.directory(run)
    if run_dir.exists():  # left behind by an interruption
        shutil.rmtree(run_dir)
    training = Options(
        recipe=run.recipe,
        run_dir=run_dir,
        set=[run.overrides(options.overrides)],
        accumulation=1,
        no_exchange=not run.exchange,
    )
    launcher = launcher_of(run.strategy)
    command = commands.training_command(
        run.strategy, run.workers, training, launcher=launcher, nodes=Nodes(run.nodes)
    )
    environment = {**training_environment(run.strategy), LAUNCHED_BY: launcher}
    return run_quietly(command, environment, run_dir, options.run_timeout_s)[1]


def report(folder: Path, study: dict) -> int:
    """Analyse and write the report; the last lines say where it is and what it found."""
    from scaling.report import write_report

    for line in write_report(folder):
        print(line)
    return EXIT_DONE if all(run["state"] == "completed" for run in study["runs"]) else EXIT_FAILED


if __name__ == "__main__":
    raise SystemExit(guarded(main))
