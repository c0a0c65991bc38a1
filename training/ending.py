"""The end of a training process from beside its main thread, which may be stuck, hold any lock, or wait for a disk."""

import contextlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

from telemetry.run_log import write_status

WRITES_S = 5.0
"""How long an ending waits for a disk."""


def tell(line: str) -> None:
    """One line on standard error; not by print, whose lock the main thread may hold."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)
    with contextlib.suppress(OSError):
        os.write(2, f"trimaran: {shown}\n".encode())


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
    try:
        return str(json.loads((run_dir / "status.json").read_text())["state"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def no_longer_running(run_dir: Path, step: int, reason: str) -> None:
    """Let status.json say "failed" where it says "running". What else it says was true before and still is."""
    if state_of(run_dir) == "running":
        write_status(run_dir, "failed", step, reason)
