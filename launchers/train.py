"""Train one recipe under one strategy with N workers: builds the command of the right launcher, and runs it.

python -m launchers.train torch-ddp --recipe digits-resnet18 --workers 2 --run-dir runs/a
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from distributed import horovod_setup
from launchers import commands
from launchers.child import run_child
from launchers.environment import python_of, training_environment
from launchers.nodes import Nodes, check_nodes
from launchers.restarts import RESTARTS_ITSELF, Ending, ending, last_checkpoint, written
from training.options import HorovodOptions, parse, warn
from training.problems import EXIT_DONE, EXIT_FAILED, UsageError
from training.process import LAUNCHED_BY, guarded
from training.restart import RESTART
from training.run import default_run_dir, open_run
from training.world import World

PROGRAM = "python -m launchers.train"
StrategyName = Literal["torch-single", "torch-ddp", "torch-horovod", "tf-single", "tf-mirrored", "tf-horovod"]


@dataclass
class TrainOptions(HorovodOptions):
    """Train one recipe under one strategy with any number of workers."""

    strategy: Annotated[StrategyName, tyro.conf.Positional] = "torch-single"
    """How gradients are combined."""
    launcher: Literal["torchrun", "mpirun", "horovodrun", "srun", "direct"] | None = None
    """What starts the workers (default: the strategy's own; for Horovod mpirun, or horovodrun without an MPI; over
    several nodes that are not named srun)."""
    nodes: int = 1
    """Nodes, each with as many of the workers."""
    hosts: str | None = None
    """Their names, separated by commas. mpirun and horovodrun start all of them; for torch-ddp and tf-mirrored run
    this command on each, with its own --node-rank."""
    node_rank: int = 0
    """Which of --hosts this is, from 0."""
    hostfile: Path | None = None
    """Hosts for mpirun or horovodrun, one a line: host slots=4 (instead of --hosts)."""
    port: int | None = None
    """Where the workers meet (default: a free port; 20480 over --hosts)."""
    python: str | None = None
    """The command that is Python there (default: TRIMARAN_TORCH_PYTHON or TRIMARAN_TENSORFLOW_PYTHON, or this one)."""
    max_restarts: int = 0
    """Start a run that fails again from its last checkpoint, so many times in all. Not what would fail again: a
    mistake of usage, a loss that is not finite; and not a run that was told to stop."""
    dry_run: bool = False
    """Print the command, ready to be pasted, and do nothing."""

    @property
    def placed(self) -> Nodes:
        """What the options say of nodes."""
        hosts = tuple(filter(None, (self.hosts or "").split(",")))
        return Nodes(self.nodes, hosts, self.node_rank, self.hostfile, self.port)


def main() -> int:
    """Check everything that can be checked here, then start the workers. Returns 0, 1, 2 or 75."""
    options = parse(TrainOptions, PROGRAM)
    workers = options.workers or 1
    launcher = commands.choose_launcher(options.strategy, options.launcher, options.placed)
    if options.run_dir is None and options.recipe is not None:
        options.run_dir = default_run_dir(options.recipe, options.strategy, workers)
    check(options, options.strategy, workers, launcher)
    if options.dry_run:
        print(commands.as_shell(*command_of(options, workers, launcher)))
        return EXIT_DONE
    own_restarts = 0 if launcher in RESTARTS_ITSELF else options.max_restarts
    ended = start(options, workers, launcher)
    for number in range(1, own_restarts + 1):
        if not ended.may_restart:
            break
        assert options.run_dir is not None  # check() found it missing otherwise
        again = f"{number} of {own_restarts}"
        warn(f"restart {again} from step {last_checkpoint(options.run_dir)}: {ended.reason}")
        os.environ[RESTART] = again  # for the workers, which are to go on from what this start has left
        ended = start(options, workers, launcher)
    if ended.code == EXIT_FAILED:
        warn(f"{options.strategy} failed: {ended.reason}")
    return ended.code


def command_of(options: TrainOptions, workers: int, launcher: str) -> tuple[dict[str, str], list[str]]:
    """The variables and the words of one start; where a port is needed, a free one."""
    nodes = options.placed
    command = commands.training_command(
        options.strategy,
        workers,
        options,
        launcher=launcher,
        nodes=nodes,
        python=python_of(options.strategy, options.python),
        max_restarts=options.max_restarts,
    )
    return {**training_environment(options.strategy), **nodes.environment(launcher)}, command


def start(options: TrainOptions, workers: int, launcher: str) -> Ending:
    """Run the command to its end, and say what that was."""
    assert options.run_dir is not None  # check() found it missing otherwise
    environment, command = command_of(options, workers, launcher)
    status_path = options.run_dir / "status.json"
    earlier = written(status_path)
    code, errors = run_child(command, {**environment, LAUNCHED_BY: launcher})
    return ending(launcher, code, errors, options.run_dir, status_is_new=written(status_path) != earlier)


def check(options: TrainOptions, strategy: str, workers: int, launcher: str) -> None:
    """What each worker would find wrong, found once, before any of them starts. Raises UsageError and its kin."""
    if not strategy.endswith("-horovod") and (given := commands.horovod_arguments(options)):
        raise UsageError(f"{given[0]}: is Horovod's, but {strategy} does not use it; leave it out")
    commands.check_launcher(strategy, launcher, python_of(strategy, options.python))
    if options.adasum and launcher == "horovodrun":
        raise UsageError(
            "--adasum: needs MPI, but --launcher horovodrun starts Horovod over Gloo; use mpirun"
        )
    if options.max_restarts < 0:
        raise UsageError(f"--max-restarts: found {options.max_restarts}, expected 0 or more")
    if options.max_restarts and options.no_exchange:
        raise UsageError("--max-restarts: --no-exchange saves nothing to go on from; leave one of them out")
    if strategy.endswith("-single") and workers != 1:
        raise UsageError(f"--workers: found {workers}, but {strategy} is one worker; leave --workers out")
    check_nodes(strategy, launcher, workers, options.placed)
    world = World(0, 0, workers, workers, (0,), launcher)
    if strategy.endswith("-horovod"):
        horovod_setup.check_options(options, workers)
    run = open_run(options, strategy, world, with_state=False)
    if strategy.endswith("-horovod"):
        horovod_setup.check_compression(options, run.recipe.performance)


if __name__ == "__main__":
    raise SystemExit(guarded(main))
