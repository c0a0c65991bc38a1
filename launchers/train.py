"""Train one recipe under one strategy with N workers: builds the command of the right launcher, and runs it.

python -m launchers.train torch-ddp --recipe digits-resnet18 --workers 2 --run-dir runs/a
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from distributed import horovod_setup, topology
from launchers import commands
from launchers.child import explain, run_child
from training.options import HorovodOptions, parse, warn
from training.problems import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED_EARLY, EXIT_USAGE, UsageError
from training.process import LAUNCHED_BY, guarded
from training.run import default_run_dir, open_run
from training.world import World

PROGRAM = "python -m launchers.train"
StrategyName = Literal["torch-single", "torch-ddp", "torch-horovod", "tf-single", "tf-mirrored", "tf-horovod"]


@dataclass
class TrainOptions(HorovodOptions):
    """Train one recipe under one strategy with any number of workers."""

    strategy: Annotated[StrategyName, tyro.conf.Positional] = "torch-single"
    """How gradients are combined."""
    launcher: Literal["torchrun", "mpirun", "horovodrun", "direct"] | None = None
    """What starts the workers (default: the strategy's own; for Horovod mpirun, or horovodrun without an MPI)."""
    hostfile: Path | None = None
    """Hosts for mpirun or horovodrun, one a line: host slots=4 (default: this node)."""
    dry_run: bool = False
    """Print the command, ready to be pasted, and do nothing."""


def main() -> int:
    """Check everything that can be checked here, then start the workers. Returns 0, 1, 2 or 75."""
    options = parse(TrainOptions, PROGRAM)
    workers = options.workers or 1
    launcher = commands.choose_launcher(options.strategy, options.launcher)
    if options.run_dir is None and options.recipe is not None:
        options.run_dir = default_run_dir(options.recipe, options.strategy, workers)
    check(options, options.strategy, workers, launcher)
    command = commands.training_command(
        options.strategy, workers, options, launcher=launcher, hostfile=options.hostfile
    )
    environment = commands.training_environment(options.strategy)
    if options.dry_run:
        print(commands.as_shell(environment, command))
        return EXIT_DONE
    assert options.run_dir is not None  # check() found it missing otherwise
    code, errors = run_child(command, {**environment, LAUNCHED_BY: launcher})
    status_path = options.run_dir / "status.json"
    state = json.loads(status_path.read_text())["state"] if status_path.exists() else None
    if code == EXIT_DONE:
        return EXIT_STOPPED_EARLY if state == "preempted" else EXIT_DONE
    if code in (EXIT_USAGE, EXIT_STOPPED_EARLY) and launcher in ("direct", "mpirun"):
        return code
    warn(f"{options.strategy} failed: {explain(code, errors, options.run_dir)}")
    return EXIT_FAILED


def check(options: TrainOptions, strategy: str, workers: int, launcher: str) -> None:
    """What each worker would find wrong, found once, before any of them starts. Raises UsageError and its kin."""
    if not strategy.endswith("-horovod") and (given := commands.horovod_arguments(options)):
        raise UsageError(f"{given[0]}: is Horovod's, but {strategy} does not use it; leave it out")
    if options.hostfile is not None and launcher not in ("mpirun", "horovodrun"):
        raise UsageError(f"--hostfile: is for mpirun and horovodrun, found {launcher}; leave it out")
    commands.check_launcher(strategy, launcher)
    if options.adasum and launcher == "horovodrun":
        raise UsageError(
            "--adasum: needs MPI, but --launcher horovodrun starts Horovod over Gloo; use mpirun"
        )
    if strategy.endswith("-single") and workers != 1:
        raise UsageError(f"--workers: found {workers}, but {strategy} is one worker; leave --workers out")
    if options.hostfile is not None:
        commands.check_hostfile(options.hostfile, workers)
    elif workers >= 1:
        topology.check_devices(workers, topology.visible_gpus())
    world = World(0, 0, workers, workers, (0,), launcher)
    if strategy.endswith("-horovod"):
        horovod_setup.check_options(options, workers)
    open_run(options, strategy, world, with_state=False)


if __name__ == "__main__":
    raise SystemExit(guarded(main))
