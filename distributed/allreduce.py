"""How fast an all-reduce is, and that it adds up: what the probes of launchers.doctor share, free of any framework."""

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

ELEMENTS = 4 * 2**20
"""16 MiB in float32: about a bucket of gradients."""
WARM_UPS, REPEATS = 3, 10


def measure(all_reduce: Callable[[int], Any], ranks: int) -> dict[str, Any]:
    """The figures of a function that all-reduces so many float32 ones once and waits for the result.

    Returns JSON's types; bus_bytes_per_s is algorithm bandwidth times 2 (n - 1) / n, as nccl-tests defines it
    (PERFORMANCE.md there): the speed of the slowest link, whatever the number of ranks. latency_s is a step's of a
    ring, of which an all-reduce has 2 (n - 1), from the time that a single number takes.
    """
    seconds, nbytes = _median_s(all_reduce, ELEMENTS), 4 * ELEMENTS
    return {
        "ranks": ranks,
        "bytes": nbytes,
        "median_s": seconds,
        "bus_bytes_per_s": bus_bandwidth(nbytes, seconds, ranks),
        "latency_s": _median_s(all_reduce, 1) / max(2 * (ranks - 1), 1),
    }


def _median_s(all_reduce: Callable[[int], Any], elements: int) -> float:
    for _ in range(WARM_UPS):
        all_reduce(elements)
    times_s = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        all_reduce(elements)
        times_s.append(time.perf_counter() - started)
    return statistics.median(times_s)


def bus_bandwidth(nbytes: int, seconds: float, ranks: int) -> float:
    """Bytes a second that an all-reduce of `nbytes` among `ranks` moves over each link, at the least."""
    return nbytes / seconds * 2 * (ranks - 1) / ranks


def report(figures: dict[str, Any], found: float, rank: int) -> int:
    """Print the figures on rank 0; returns 0. Raises SystemExit where a sum of ones is not the number of ranks."""
    if found != figures["ranks"]:
        raise SystemExit(f"rank {rank}: a sum of ones over {figures['ranks']} ranks is {found}")
    if rank == 0:
        print(json.dumps(figures), flush=True)
    return 0
