"""Let the C library keep the memory that tensors free, since the next step asks for the same again."""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
KEPT_BYTES = 2**30
"""More than any tensor that is trained on a CPU, and below what mallopt's int can say."""
USERS_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Whether glibc was told so; not where the user has told it something, nor where there is another C library.

    By itself glibc maps large blocks anew each time, or gives the top of its heap back to the kernel, and every page
    of them is faulted in and zeroed again: 1,000 to 2,600 faults a step of stdlib-gpt under PyTorch, which asks for
    each tensor's memory by itself, and some 4 % of its time (benchmarks/RESULTS.md). See mallopt(3).
    """
    if any(name in os.environ for name in USERS_OWN):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(each, KEPT_BYTES) == 1 for each in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
