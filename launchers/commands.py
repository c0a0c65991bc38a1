"""From a strategy and a number of workers to the command that starts it: argument lists, never shell strings."""

import contextlib
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

from distributed import horovod_setup
from distributed.topology import visible_gpus
from training.options import HorovodOptions, Options
from training.problems import UsageError
from training.process import LAUNCHED_BY

CHECKOUT = Path(__file__).resolve().parent.parent
LAUNCHERS = {
    "torch-single": ("direct",),
    "torch-ddp": ("torchrun",),
    "torch-horovod": ("mpirun", "horovodrun"),
    "tf-single": ("direct",),
    "tf-mirrored": ("direct",),
    "tf-horovod": ("mpirun", "horovodrun"),
}
"""The launchers of each strategy, the default first; where mpirun cannot start Horovod, horovodrun takes its place."""
FIRST_PORT, LAST_PORT = 20000, 32000
"""Below Linux's ephemeral range, where a port can be taken by any outgoing connection."""


def choose_launcher(strategy: str, launcher: str | None) -> str:
    """The launcher to use. Raises UsageError for one that cannot start this strategy."""
    known = LAUNCHERS[strategy]
    if launcher is not None and launcher not in known:
        raise UsageError(
            f"--launcher: found {launcher!r}, expected for {strategy} one of: {', '.join(known)}"
        )
    if launcher is None and known[0] == "mpirun":
        return "mpirun" if shutil.which("mpirun") and horovod_setup.installed_with_mpi() else "horovodrun"
    return launcher or known[0]


def check_launcher(strategy: str, launcher: str) -> None:
    """Raises UsageError where the launcher is not installed, or cannot start the Horovod that is."""
    if launcher not in ("mpirun", "horovodrun"):
        return
    folder = horovod_setup.check_build("torch" if strategy.startswith("torch-") else "tensorflow")
    if launcher == "mpirun" and shutil.which("mpirun") is None:
        raise UsageError(
            "mpirun: not found on PATH; install an MPI (apt-get install openmpi-bin libopenmpi-dev, or load your "
            "cluster's module) and run make horovod, or use --launcher horovodrun"
        )
    if launcher == "mpirun" and not horovod_setup.has_mpi(folder):
        raise UsageError(
            f"mpirun: found, but {folder} was built without MPI; run make horovod, or use --launcher horovodrun"
        )


def startable(strategy: str) -> list[str]:
    """The launchers that can start this strategy here."""
    found = []
    for launcher in LAUNCHERS[strategy]:
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
    hostfile: Path | None = None,
    python: str = sys.executable,
    port: int | None = None,
) -> list[str]:
    """The full argument list that trains with `workers` workers, on this node unless there is a hostfile."""
    script = ["-m", f"distributed.{strategy.replace('-', '_')}"]
    arguments = [*script, *option_arguments(options), "--workers", str(workers)]
    chosen = choose_launcher(strategy, launcher)
    return [
        *launch_prefix(chosen, workers, strategy, hostfile=hostfile, python=python, port=port),
        *arguments,
    ]


def launch_prefix(
    launcher: str,
    workers: int,
    strategy: str,
    *,
    hostfile: Path | None = None,
    python: str = sys.executable,
    port: int | None = None,
) -> list[str]:
    """The launcher's own part of the command, up to the interpreter that runs a module in each worker."""
    match launcher:
        case "torchrun":
            address = ["--master-addr=127.0.0.1", f"--master-port={port or free_port()}"]
            nodes = [f"--nproc-per-node={workers}", "--nnodes=1"]
            return [python, "-m", "torch.distributed.run", *nodes, *address]
        case "mpirun":
            return ["mpirun", "-np", str(workers), *mpirun_flags(strategy, hostfile), python]
        case "horovodrun":
            hosts = ["--hostfile", str(hostfile)] if hostfile else ["--network-interfaces", "lo"]
            horovodrun = str(Path(python).with_name("horovodrun"))
            return [horovodrun, "--gloo", "-np", str(workers), *hosts, python]
        case _:
            return [python]


def mpirun_flags(strategy: str, hostfile: Path | None) -> list[str]:
    """What mpirun needs to be told: where, and not to tie a worker with all its threads to one core."""
    if not is_open_mpi():
        return ["-f", str(hostfile)] if hostfile else []
    flags = ["--bind-to", "none"]
    if os.geteuid() == 0:
        flags.append("--allow-run-as-root")
    if hostfile:
        exported = (*training_environment(strategy), LAUNCHED_BY)
        return [*flags, "--hostfile", str(hostfile), *(word for name in exported for word in ("-x", name))]
    if not visible_gpus():
        flags.append("--oversubscribe")  # CPU workers may outnumber the cores; run.json marks it
    loopback = [word for layer in ("oob", "btl") for word in ("--mca", f"{layer}_tcp_if_include", "lo")]
    return [*flags, *loopback]


@cache
def is_open_mpi() -> bool:
    """Whether the mpirun on PATH is Open MPI's, whose flags others do not know."""
    try:
        return "Open MPI" in subprocess.run(["mpirun", "--version"], capture_output=True, text=True).stdout
    except OSError:
        return True


def check_hostfile(hostfile: Path, workers: int) -> None:
    """Raises UsageError where the hosts have fewer slots than there are workers (a line is `host slots=N`)."""
    try:
        lines = [line.partition("#")[0].split() for line in hostfile.read_text().splitlines()]
        slots = sum(
            next((int(word[6:]) for word in words[1:] if word.startswith("slots=")), 1)
            for words in lines
            if words
        )
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--hostfile {hostfile}: {error}; expected lines of the form: host slots=4"
        ) from None
    if workers > slots:
        raise UsageError(
            f"--workers: found {workers}, but the hosts in {hostfile} have {slots} slot(s); add hosts or slots, or "
            "use fewer workers"
        )


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
    ):
        if value is not None:
            arguments += [flag, str(value)]
    arguments += [flag for flag, value in (("--resume", options.resume), ("--eager", options.eager)) if value]
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


def training_environment(strategy: str) -> dict[str, str]:
    """What the command needs beside the caller's environment."""
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
    if "OMP_NUM_THREADS" not in os.environ:
        environment["OMP_NUM_THREADS"] = "1"  # a CPU worker is one core with one thread
    if strategy.startswith("tf-"):
        environment["TF_CPP_MIN_LOG_LEVEL"] = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")
    return environment


def default_jobs() -> int:
    """Runs that may go side by side: one a core, or one at all where they would share GPUs."""
    return 1 if visible_gpus() else len(os.sched_getaffinity(0))


def as_shell(environment: dict[str, str], command: list[str]) -> str:
    """One line that can be pasted into a shell."""
    return " ".join(
        [*(f"{key}={shlex.quote(value)}" for key, value in environment.items()), shlex.join(command)]
    )


def free_port() -> int:
    """A free TCP port on loopback, outside the ephemeral range; by chance, so that two at a time seldom meet."""
    span = LAST_PORT - FIRST_PORT
    start = secrets.randbelow(span)
    for offset in range(span):
        port = FIRST_PORT + (start + offset) % span
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise UsageError(f"no free port from {FIRST_PORT} to {LAST_PORT} on 127.0.0.1; end what listens there")
