"""What a person can do about an error that is no mistake of theirs, found by the words of its message.

By words, because the classes are the frameworks', of which nothing is imported here.
"""

import re

MEMORY = (
    "out of memory: start with a larger --accumulation, more workers or a smaller data.global_batch, and see what "
    "else uses this memory"
)
DEVICE = (
    "this rank's GPU failed: see dmesg for its Xid, leave that node out, and go on with --resume on others"
)
PEER = "another rank or its node is gone: see what that one said, and go on with --resume"
DISK = "free some of that disk, or mend it, and go on with --resume"
LOADER = (
    "a loader process died, perhaps by the kernel, out of memory: see dmesg, lower performance.loader_workers, and go "
    "on with --resume"
)
TABLE = (
    (
        r"OutOfMemoryError|ResourceExhaustedError|^(_Array)?MemoryError\b|CUDA out of memory|ALLOC_FAILED"
        r"|CUDA error: out of memory|DefaultCPUAllocator: (can't|not enough)|OOM when allocating|bad_alloc",
        MEMORY,
    ),
    (
        r"CUDA error|CUDA_ERROR_|cudaError|GPU is lost|[Uu]ncorrectable ECC|fallen off the bus"
        r"|CUDA driver|CUBLAS_STATUS_EXECUTION_FAILED|CUDNN_STATUS_EXECUTION_FAILED",
        DEVICE,
    ),
    (
        r"Connection (closed|reset|refused)|Broken pipe|Socket (closed|Timeout)|HorovodInternalError"
        r"|ncclRemoteError|ncclSystemError|remote process exited|UnavailableError|DistStoreError",
        PEER,
    ),
    (r"Worker process was terminated unexpectedly", LOADER),
    (r"No space left on device|Read-only file system|Disk quota exceeded|Input/output error", DISK),
)
"""The first pattern that is found in "ErrorClass: its message", and what to do."""


def advice(reason: str) -> str | None:
    """What to do about "ErrorClass: its message", None where nothing is known."""
    return next((what for pattern, what in TABLE if re.search(pattern, reason)), None)
