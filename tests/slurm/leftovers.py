"""Ends what is left of a test cluster, even where the tests were killed and could not.

python leftovers.py SLURM.CONF waits for a line on its standard input, or for its end: that comes, at the latest, with
the end of whoever started it. Then it kills the cluster's daemons and all that runs for its jobs, and removes its
directory.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

TIME_LIMIT_S = 5.0
SLURM = ("munge", "salloc", "slurm", "srun")
"""How the names of its daemons begin, and those of clients that would wait for them."""


def main(slurm_conf: Path) -> None:
    """Wait for the word, then leave nothing."""
    sys.stdin.readline()
    give_up = time.monotonic() + TIME_LIMIT_S
    while (found := processes(slurm_conf)) and time.monotonic() < give_up:
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
    shutil.rmtree(slurm_conf.parent, ignore_errors=True)


def processes(slurm_conf: Path) -> list[int]:
    """Slurm itself, and who runs for one of its jobs; no shell in which a person exported SLURM_CONF."""
    ours = f"SLURM_CONF={slurm_conf}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")  # empty for a zombie
            in_a_job = any(variable.startswith(b"SLURM_JOB_ID=") for variable in environment)
            of_slurm = (folder / "comm").read_text().startswith(SLURM)
            if ours in environment and (in_a_job or of_slurm):
                found.append(int(folder.name))
        except OSError:  # ended meanwhile
            continue
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
