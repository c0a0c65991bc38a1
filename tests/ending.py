"""Whether a process that was to be ended is gone."""

import time
from contextlib import suppress

import psutil


def ends(pid: int, within_s: float = 20.0) -> bool:
    """True as soon as there is no such process, or only a zombie: whoever killed it need not have waited for it."""
    deadline = time.monotonic() + within_s
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
    return True
