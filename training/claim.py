"""One start at a time in a run directory: its main process holds a lock there for as long as it lives.

The kernel gives the lock back however the process ends, so there is nothing to clean up after a kill -9. Two that train
in one directory, as when a job is started again whose first start still lives, would move each other's rows and
checkpoints away.
"""

import errno
import fcntl
import os
import socket
from pathlib import Path

from training.problems import UsageError

NAME = ".claim"
TAKEN = (errno.EWOULDBLOCK, errno.EACCES)
_held: dict[str, int] = {}
"""Directories and the open files that hold them, of this process."""


def check(run_dir: Path) -> None:
    """Raises UsageError where a process that lives, on any host that shares this file system, trains there."""
    if (run_dir / NAME).exists():
        os.close(_locked(run_dir))


def hold(run_dir: Path) -> None:
    """From now till this process ends the directory, which is made, is its own. Raises UsageError as `check` does."""
    key = os.path.realpath(run_dir)
    if key in _held:
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    file = _locked(run_dir)
    os.ftruncate(file, 0)
    os.write(file, f"host {socket.gethostname()}, pid {os.getpid()}\n".encode())
    _held[key] = file


def _locked(run_dir: Path) -> int:
    """The open file with the lock; without one where the file system knows no locks."""
    file = os.open(run_dir / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in TAKEN:
            return file
        who = os.read(file, 200).decode(errors="replace").strip() or "a process that has just started"
        os.close(file)
        raise UsageError(
            f"--run-dir {run_dir}: another start trains there ({who}); wait for its end, end it, or choose another "
            "directory"
        ) from error
    return file
