"""From a strategy and a number of workers to the command that starts it: argument lists, never shell strings."""

import os
import secrets
import shlex
import socket
import sys
from pathlib import Path

from distributed.topology import visible_gpus
from training.options import Options
from training.problems import UsageError

CHECKOUT = Path(__file__).resolve().parent.parent
LAUNCHERS = {
    "torch-single": ("direct",),
    "torch-ddp": ("torchrun",),
    "tf-single": ("direct",),
    "tf-mirrored": ("direct",),
}
"""The launchers of each strategy, the default first."""
FIRST_PORT, LAST_PORT = 20000, 32000
"""Below Linux's ephemeral range, where a port can be taken by any outgoing connection."""


def choose_launcher(strategy: str, launcher: str | None) -> str:
    """The launcher to use. Raises UsageError for one that cannot start this strategy."""
    known = LAUNCHERS[strategy]
    if launcher is not None and launcher not in known:
        raise UsageError(
            f"--launcher: found {launcher!r}, expected for {strategy} one of: {', '.join(known)}"
        )
    return launcher or known[0]


def training_command(
    strategy: str, workers: int, options: Options, *, python: str = sys.executable, port: int | None = None
) -> list[str]:
    """The full argument list that trains with `workers` workers on this node."""
    module = ["-m", f"distributed.{strategy.replace('-', '_')}"]
    arguments = [*module, *option_arguments(options), "--workers", str(workers)]
    if choose_launcher(strategy, None) == "direct":
        return [python, *arguments]
    torchrun = [python, "-m", "torch.distributed.run", f"--nproc-per-node={workers}", "--nnodes=1"]
    address = ["--master-addr=127.0.0.1", f"--master-port={port or free_port()}"]
    return [*torchrun, *address, *arguments]


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
    if options.overrides:
        arguments += ["--set", *options.overrides]
    return arguments


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
