"""How one start of a run ended, whether another may help, and what status.json says of it meanwhile.

torchrun starts its workers again by its own --max-restarts. mpirun cannot. Horovod's elastic mode keeps the processes
that live and tells them to join again, which needs a training function of its kind; once all of them have ended, or the
only host has had a failure, it ends too. So under every launcher but torchrun the whole command is started again.
"""

import signal
from dataclasses import dataclass
from pathlib import Path

from launchers.child import HEARD, explain, rank_endings
from telemetry.run_log import read_rows, read_status, write_status
from training import checkpoint
from training.problems import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED_EARLY, EXIT_USAGE

RESTARTS_ITSELF = ("torchrun",)
TELLS_CODES = ("direct", "mpirun")
"""Launchers that end with the exit code of their processes."""


@dataclass(frozen=True)
class Ending:
    """The exit code for the person, why where it is a failure, and whether another start may end otherwise."""

    code: int
    reason: str = ""
    may_restart: bool = False


def written(path: Path) -> tuple[int, int] | None:
    """Which writing of a small file this is: each makes a new one. None where there is no file."""
    if not path.exists():
        return None
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def ending(launcher: str, code: int, errors: str, run_dir: Path, status_is_new: bool) -> Ending:
    """What became of a start whose launcher ended with `code`. `status_is_new`: this start wrote status.json.

    Lets status.json say "failed" where the training processes were killed before they could.
    """
    status = read_status(run_dir) if status_is_new else {}
    state = status.get("state")
    if state == "preempted":
        # Whatever the launcher says: a torchrun that got a signal itself says 1.
        return Ending(EXIT_STOPPED_EARLY)
    if code == EXIT_DONE and state != "failed":
        return Ending(EXIT_DONE)
    if code in (EXIT_USAGE, EXIT_STOPPED_EARLY) and launcher in TELLS_CODES:
        return Ending(code)
    if status.get("would_repeat"):
        return Ending(EXIT_FAILED, str(status.get("reason")))
    reason = explain(code, errors, run_dir)
    if state in ("running", "failed"):
        _record(run_dir, status, reason)
    was_told_to_end = bool(HEARD) or code in (-signal.SIGINT, 128 + signal.SIGINT)
    is_usage = any(exit_code == EXIT_USAGE for _, exit_code in rank_endings(errors))
    return Ending(EXIT_FAILED, reason, may_restart=not was_told_to_end and not is_usage)


def last_checkpoint(run_dir: Path) -> int:
    """The step of the newest checkpoint, 0 where there is none."""
    return max(checkpoint.complete_steps(run_dir / "checkpoints"), default=0)


def _record(run_dir: Path, status: dict, reason: str) -> None:
    """The step last logged, or the one of the status where that is later."""
    try:
        rows = read_rows(run_dir / "metrics.jsonl")
    except (OSError, ValueError):
        rows = []
    steps = [row["step"] for row in rows if isinstance(row.get("step"), int)]
    try:
        write_status(run_dir, "failed", max([status.get("step", 0), *steps]), reason)
    except OSError:
        return  # the reason is told anyway
