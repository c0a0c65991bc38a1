"""What a loader process does first: see to it that it ends with the process it loads for, and only then."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with_parent(parent_pid: int, worker_index: int, worker_count: int) -> None:
    """Have the kernel kill this process when its parent dies, however the parent dies.

    Signals meant for the training process (Slurm sends them to every process of a step, Ctrl-C to the group)
    are ignored: it is still going to finish its step, for which it needs the data.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the line above
        os._exit(1)
