"""What a loader process does first: see to it that it ends with the process it loads for, and only then."""

import ctypes
import os
import signal
from types import FrameType

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with_parent(parent_pid: int, worker_index: int, worker_count: int) -> None:
    """End when the parent process ends, even by kill -9: the kernel then sends SIGTERM here.

    It sends the same when only the parent's *thread* that started this process ends, hence the look at the
    parent. Signals meant for the training process (Slurm sends them to every process of a step, Ctrl-C to the
    group) are ignored likewise: it is still going to finish its step, for which it needs the data. That process
    hears them in a thread of its own and blocks them elsewhere, which is inherited: here they are let in again.
    """

    def end_if_orphaned(number: int, frame: FrameType | None) -> None:
        if os.getppid() != parent_pid:
            os._exit(1)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    for number in numbers:
        signal.signal(number, end_if_orphaned)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    end_if_orphaned(signal.SIGTERM, None)  # the parent may have died before the line above
