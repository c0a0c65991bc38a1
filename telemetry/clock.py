"""Which clock a time was read from: CLOCK_MONOTONIC counts from a boot of one host, and compares with no other."""

import socket
from functools import cache
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@cache
def clock() -> dict[str, str]:
    """host and boot_id (8 hex digits), the keys of rows whose t_monotonic_s may be compared."""
    try:
        boot_id = BOOT_ID.read_text()[:8]
    except OSError:  # not Linux: one boot is as good as another
        boot_id = "unknown"
    return {"host": socket.gethostname(), "boot_id": boot_id}
