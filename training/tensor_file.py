"""Writing safetensors files: the space reserved first, the digest taken on the way, and no copy of the arrays.

The package's own writer makes a temporary file of its own, which nothing can be reserved for, and before version 0.8
it copied the whole state. The format: 8 bytes of the header's length, a JSON header, then the arrays
(https://github.com/huggingface/safetensors#format). Reading is the package's.
"""

import ctypes
import errno
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from training.state import Arrays

TYPES = {"float64": "F64", "float32": "F32"}
ALIGNMENT = 8
PIECE_BYTES = 2**18
"""What is hashed and written at a time: while a core's own cache holds it, the write does not read it from memory
again, whose bandwidth the steps need. The interpreter's lock is free meanwhile, so training goes on."""
REST_BYTES = 2**22
"""What is written from one rest to the next: some milliseconds of work."""
Rest = Callable[[float], object]
"""Called with the seconds that were worked since the last call; a write in the background may wait in it."""
CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


def size_bytes(arrays: Arrays) -> int:
    """How long the file of these arrays is."""
    return len(_header(arrays)) + sum(array.nbytes for array in arrays.values())


def reserve(path: Path, num_bytes: int) -> None:
    """Make a file of this size with all its space on the disk. Raises OSError (ENOSPC) where there is too little."""
    with path.open("xb") as file:
        try:
            allocate(file.fileno(), num_bytes)
        except OSError as error:
            if error.errno not in CANNOT_RESERVE:
                raise
            if shutil.disk_usage(path).free < num_bytes:  # the next best: to look, which reserves nothing
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


def allocate(handle: int, num_bytes: int) -> None:
    """Linux's own fallocate. Raises OSError.

    Where a file system has none (older NFS, say), os.posix_fallocate writes a byte into each block: a request each.
    """
    if sys.platform != "linux":
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    library = ctypes.CDLL(None, use_errno=True)
    if library.fallocate(handle, 0, ctypes.c_int64(0), ctypes.c_int64(num_bytes)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def write_tensors(path: Path, arrays: Arrays, *, durable: bool, rest: Rest | None = None) -> str:
    """Fill a reserved file, byte for byte as safetensors does it; returns its SHA-256 in hex.

    Arrays may be views in any order of memory: each is made contiguous by itself. `durable` waits for the disk.
    rest: called after every REST_BYTES. Raises OSError.
    """
    digest = hashlib.sha256()
    with path.open("r+b", buffering=0) as file:
        num_bytes, began_s = 0, time.perf_counter()
        for piece in _pieces(arrays):
            digest.update(piece)
            num_bytes += len(piece)
            while piece:  # a write may take a part of it
                piece = piece[file.write(piece) :]
            if rest is not None and num_bytes >= REST_BYTES:
                rest(time.perf_counter() - began_s)
                num_bytes, began_s = 0, time.perf_counter()
        if durable:
            os.fsync(file.fileno())
    return digest.hexdigest()


def _header(arrays: Arrays) -> bytes:
    entries, offset = {}, 0
    for name in _in_order(arrays):
        array = arrays[name]
        end = offset + array.nbytes
        entries[name] = {
            "dtype": TYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _in_order(arrays: Arrays) -> list[str]:
    """Wide types first, so that all are aligned."""
    return sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))


def _pieces(arrays: Arrays) -> Iterator[memoryview]:
    yield memoryview(_header(arrays))
    for name in _in_order(arrays):
        whole = arrays[name].reshape(-1).view(np.uint8).data  # of a view that is not contiguous a copy
        for start in range(0, len(whole), PIECE_BYTES):
            yield whole[start : start + PIECE_BYTES]
