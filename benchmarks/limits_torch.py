"""What a device does at best: one large matrix product after the other, and one large copy after the other.

    python -m benchmarks.limits_torch bf16

Prints one JSON line. The first GPU, or without one a single thread of the CPU, as a worker has it.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch

TYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
ROUNDS = 15
SIDE = {"cuda": 8192, "cpu": 1024}
"""Of the square matrices: large enough for the best rate, which falls again on a CPU once the caches are full."""
COPIED_BYTES = {"cuda": 2**31, "cpu": 2**28}
"""Far more than any cache holds."""
CALLS = {"cuda": 10, "cpu": 1}
"""Between two looks at the clock, before which a GPU is waited for."""


def main() -> None:
    """Measure both, and print them with the device's name."""
    precision = sys.argv[1]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    if device == "cpu":
        torch.set_num_threads(1)
    side = SIDE[device]
    left, right = torch.randn(2, side, side, device=device).to(TYPES[precision])
    product = torch.empty_like(left)
    source, target = torch.ones(2, COPIED_BYTES[device], dtype=torch.uint8, device=device)
    row = {
        "device": torch.cuda.get_device_name() if device == "cuda" else None,
        "matmul_flops_per_s": 2 * side**3 / call_s(lambda: torch.mm(left, right, out=product), device),
        # Each byte is read and written.
        "copy_bytes_per_s": 2 * COPIED_BYTES[device] / call_s(lambda: target.copy_(source), device),
    }
    print(json.dumps(row))


def call_s(call: Callable[[], object], device: str) -> float:
    """Seconds of a call: the median of ROUNDS."""
    seconds = []
    for _ in range(ROUNDS):
        _wait_for(device)
        started = time.perf_counter()
        for _ in range(CALLS[device]):
            call()
        _wait_for(device)
        seconds.append((time.perf_counter() - started) / CALLS[device])
    return statistics.median(seconds)


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
