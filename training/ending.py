"""The end of a training process from beside its main thread, which may be stuck, hold any lock, or wait for a disk."""

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from telemetry.plain_rows import printable
from telemetry.run_log import read_status, write_status

WRITES_S = 5.0
"""How long an ending waits for a disk."""


def tell(line: str) -> None:
    """One line on standard error; not by print, whose lock the main thread may hold."""
    with contextlib.suppress(OSError):
        os.write(2, f"trimaran: {printable(line)}\n".encode())


def in_time(write: Callable[[], object], seconds: float = WRITES_S) -> None:
    """Call `write`, but wait no longer than this for it: a disk that is full, or hangs, does not keep the process."""

    def attempt() -> None:
        with contextlib.suppress(Exception):
            write()

    thread = threading.Thread(target=attempt, name="ending", daemon=True)
    thread.start()
    thread.join(seconds)


def state_of(run_dir: Path) -> str | None:
    """What status.json says; None where it says nothing."""
    state = read_status(run_dir).get("state")
    return None if state is None else str(state)


def no_longer_running(run_dir: Path, step: int, reason: str) -> None:
    """Let status.json say "failed" where it says "running". What else it says was true before and still is."""
    if state_of(run_dir) == "running":
        write_status(run_dir, "failed", step, reason)
