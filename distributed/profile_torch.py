"""--profile in PyTorch: torch.profiler (Kineto), and what its trace says of each device."""

import gzip
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from distributed.horovod_timeline import Timeline
from training.trace import COMMUNICATION, COMPUTE, MARK, Event, Lane

DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
AROUND_OTHERS = re.compile(
    r"autograd::engine::evaluate_function|torch::autograd::|c10d::|record_param_comms|Optimizer\.|"
    r"DistributedDataParallel\.|Horovod|.*Backward\d*$"
)
"""Operations that call others, or wait for them: only what runs inside of them is computing."""


class Tracer:
    """Satisfies training.profiling.Tracer. timeline: Horovod's, whose communication PyTorch does not see."""

    def __init__(self, timeline: Timeline | None = None) -> None:
        self._timeline = timeline
        self._profile: profile | None = None
        self._path = Path()

    def start(self, folder: Path, rank: int) -> None:
        """Trace the host and, where there is one, the GPU."""
        self._path = folder / f"rank-{rank}.trace.json.gz"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        with without_notes():
            self._profile = profile(activities=activities)
            self._profile.start()
        if self._timeline is not None:
            self._timeline.start(folder)

    def mark(self, name: str) -> AbstractContextManager:
        """A user annotation."""
        return record_function(name)

    def stop(self) -> None:
        """Write the trace."""
        assert self._profile is not None
        if self._timeline is not None:
            self._timeline.stop()
        with without_notes():
            self._profile.stop()
        self._profile.export_chrome_trace(str(self._path))
        self._profile = None  # it holds every event

    def lanes(self) -> list[Lane]:
        """This process's GPU or, without one, its CPU."""
        with gzip.open(self._path) as file:
            trace = json.load(file)
        rows = [row for row in trace["traceEvents"] if row.get("ph") == "X" and "dur" in row]
        marks = [_event(MARK, row) for row in rows if row["name"].startswith("trimaran.")]
        gpus = sorted({row["args"]["device"] for row in rows if row.get("cat") in DEVICE_WORK})
        if gpus:
            return [Lane(f"cuda:{gpu}", 1, marks + gpu_events(rows, gpu), runs_behind=True) for gpu in gpus]
        events = marks + host_events(rows)
        if self._timeline is None:
            return [Lane("cpu", 1, events)]
        events += self._timeline.events(since_s=trace["baseTimeNanoseconds"] * 1e-9)
        return [Lane("cpu", 1, events, knows_communication=self._timeline.is_known)]


@contextmanager
def without_notes() -> Iterator[None]:
    """Kineto notes on standard error when it starts and stops, which no variable of its own can switch off."""
    sys.stderr.flush()
    true_errors = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(true_errors, 2)
            os.close(true_errors)
            written.seek(0)
            for line in written:
                if not line.startswith(b"USDT:"):
                    os.write(2, line)


def gpu_events(rows: list[dict[str, Any]], gpu: int) -> list[Event]:
    """Kernels and copies of one GPU; NCCL's kernels are its communication."""
    found = [row for row in rows if row.get("cat") in DEVICE_WORK and row["args"]["device"] == gpu]
    return [_event(COMMUNICATION if "nccl" in row["name"].lower() else COMPUTE, row) for row in found]


def host_events(rows: list[dict[str, Any]]) -> list[Event]:
    """Operations on the CPU; Gloo's run in threads of their own."""
    events = []
    for row in rows:
        if row["name"].startswith("gloo:"):
            events.append(_event(COMMUNICATION, row))
        elif row.get("cat") == "cpu_op" and not AROUND_OTHERS.match(row["name"]):
            events.append(_event(COMPUTE, row))
    return events


def _event(kind: str, row: dict[str, Any]) -> Event:
    begin_s = row["ts"] * 1e-6
    return Event(kind, row["name"], str(row["tid"]), begin_s, begin_s + row["dur"] * 1e-6)
