"""From a strategy and a number of workers to the command that starts it: argument lists, never shell strings."""

import contextlib
import os
import shlex
import shutil
import sys

from distributed import horovod_setup
from distributed.devices import visible_gpus
from launchers.environment import python_of
from launchers.nodes import ONE_NODE, Nodes
from launchers.prefixes import launch_prefix
from training.hanging import longest_s
from training.options import HorovodOptions, Options
from training.problems import UsageError

LAUNCHERS = {
    "torch-single": ("direct",),
    "torch-ddp": ("torchrun", "srun"),
    "torch-horovod": ("mpirun", "horovodrun", "srun"),
    "tf-single": ("direct",),
    "tf-mirrored": ("direct", "srun"),
    "tf-horovod": ("mpirun", "horovodrun", "srun"),
}
"""The launchers of each strategy, the default first; where mpirun cannot start Horovod, horovodrun takes its place."""


def choose_launcher(strategy: str, launcher: str | None, nodes: Nodes = ONE_NODE) -> str:
    """The launcher to use. Raises UsageError for one that cannot start this strategy."""
    known = LAUNCHERS[strategy]
    if launcher is not None and launcher not in known:
        raise UsageError(
            f"--launcher: found {launcher!r}, expected for {strategy} one of: {', '.join(known)}"
        )
    if launcher is not None:
        return launcher
    if nodes.count > 1 and not nodes.hosts and nodes.hostfile is None and "srun" in known:
        return "srun"  # which nodes, Slurm knows
    if known[0] == "mpirun":
        return "mpirun" if shutil.which("mpirun") and horovod_setup.installed_with_mpi() else "horovodrun"
    return known[0]


def check_launcher(strategy: str, launcher: str, python: tuple[str, ...] | None = None) -> None:
    """Raises UsageError where the launcher is not installed, or cannot start the Horovod that is.

    A Horovod that belongs to another `python` than this one is taken on trust.
    """
    if launcher == "srun" and shutil.which("srun") is None:
        raise UsageError("srun: not found on PATH; run this where Slurm is, or choose another --launcher")
    if launcher == "mpirun" and shutil.which("mpirun") is None:
        raise UsageError(
            "mpirun: not found on PATH; install an MPI (apt-get install openmpi-bin libopenmpi-dev, or load your "
            "cluster's module) and run make horovod, or use --launcher horovodrun"
        )
    if not strategy.endswith("-horovod") or (python or python_of(strategy)) != (sys.executable,):
        return
    folder = horovod_setup.check_build("torch" if strategy.startswith("torch-") else "tensorflow")
    if launcher != "horovodrun" and not horovod_setup.has_mpi(folder):
        raise UsageError(
            f"{launcher}: found, but {folder} was built without MPI; run make horovod, or use --launcher horovodrun"
        )


def startable(strategy: str) -> list[str]:
    """The launchers that can start this strategy on this node (srun may choose another)."""
    found = []
    for launcher in LAUNCHERS[strategy]:
        if launcher == "srun":
            continue
        with contextlib.suppress(UsageError):
            check_launcher(strategy, launcher)
            found.append(launcher)
    return found


def training_command(
    strategy: str,
    workers: int,
    options: Options,
    *,
    launcher: str | None = None,
    nodes: Nodes = ONE_NODE,
    python: tuple[str, ...] | None = None,
    max_restarts: int = 0,
) -> list[str]:
    """The full argument list that trains with `workers` workers on these nodes (or starts this node's share)."""
    script = ["-m", f"distributed.{strategy.replace('-', '_')}"]
    chosen = choose_launcher(strategy, launcher, nodes)
    prefix = launch_prefix(chosen, workers, strategy, python or python_of(strategy), nodes, max_restarts)
    if chosen == "torchrun" and nodes.count > 1 and options.hang_timeout_s:
        # torchrun itself waits for the other nodes, before any rank is there to do so.
        prefix.append(f"--rdzv-conf=timeout={longest_s(options.hang_timeout_s):.0f}")
    return [*prefix, *script, *option_arguments(options), "--workers", str(workers)]


def option_arguments(options: Options) -> list[str]:
    """The command-line form of the options that a script takes (`--workers` aside)."""
    arguments: list[str] = []
    for flag, value in (
        ("--recipe", options.recipe),
        ("--run-dir", options.run_dir),
        ("--accumulation", options.accumulation),
        ("--stop-after", options.stop_after),
        ("--replay-from", options.replay_from),
        ("--perturb-gradients", options.perturb_gradients),
        (
            "--telemetry-interval-s",
            None if options.telemetry_interval_s == 1.0 else options.telemetry_interval_s,
        ),
        ("--hang-timeout-s", None if options.hang_timeout_s == 600.0 else options.hang_timeout_s),
    ):
        if value is not None:
            arguments += [flag, str(value)]
    flags = (
        ("--resume", options.resume),
        ("--eager", options.eager),
        ("--no-exchange", options.no_exchange),
        ("--profile", options.profile),
    )
    arguments += [flag for flag, value in flags if value]
    if isinstance(options, HorovodOptions):
        arguments += horovod_arguments(options)
    if options.overrides:
        arguments += ["--set", *options.overrides]
    return arguments


def horovod_arguments(options: HorovodOptions) -> list[str]:
    """The command-line form of the options that Horovod's scripts take beside the others."""
    given = {
        "--fusion-threshold-mib": options.fusion_threshold_mib,
        "--cycle-time-ms": options.cycle_time_ms,
        "--compression": None if options.compression == "none" else options.compression,
        "--timeline": options.timeline,
        "--stall-check-s": options.stall_check_s,
    }
    arguments = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
    flags = (("--adasum", options.adasum), ("--autotune", options.autotune))
    return [*arguments, *(flag for flag, value in flags if value)]


def default_jobs() -> int:
    """Runs that may go side by side: one a core, or one at all where they would share GPUs."""
    return 1 if visible_gpus() else len(os.sched_getaffinity(0))


def as_shell(environment: dict[str, str], command: list[str]) -> str:
    """One line that can be pasted into a shell."""
    return " ".join(
        [*(f"{key}={shlex.quote(value)}" for key, value in environment.items()), shlex.join(command)]
    )
