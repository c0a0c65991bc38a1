"""--profile in TensorFlow: tf.profiler, and what its trace says of each device."""

import gzip
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import tensorflow as tf

from distributed.horovod_timeline import Timeline
from training.trace import COMMUNICATION, COMPUTE, MARK, Event, Lane

OPERATION = re.compile(r"(?:[^:]*:|EagerLocalExecute: (?!_))(\w+)$")
"""What TensorFlow calls the run of an operation, with its type: in a graph "where/it/stands:MatMul", or alone. What
is alone and begins with _ is a whole graph, or a constant."""
NUMBERS = re.compile(r"[._]\d+")
"""By which XLA tells the operations of one kind apart."""
EXCHANGES = re.compile(r"Collective|Nccl|Horovod")
BETWEEN_DEVICES = ("_Send", "_Recv", "_HostSend", "_HostRecv")
"""Half of a copy, which waits for the other half."""
BOOKKEEPING = ("ThreadpoolListener", "MemoryAllocation", "MemoryDeallocation")
"""Two thirds of what is recorded, and too short to be looked at."""


class Tracer:
    """Satisfies training.profiling.Tracer. timeline: Horovod's, whose communication TensorFlow does not see.

    workers: how many this process drives.
    """

    def __init__(self, timeline: Timeline | None = None, workers: int = 1) -> None:
        self._timeline, self._workers = timeline, workers
        self._path, self._logs = Path(), Path()

    def start(self, folder: Path, rank: int) -> None:
        """Trace the host and, where there are some, the GPUs."""
        self._path, self._logs = folder / f"rank-{rank}.trace.json.gz", folder / f"rank-{rank}"
        shutil.rmtree(self._logs, ignore_errors=True)  # of an earlier start
        options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=2, python_tracer_level=0)
        tf.profiler.experimental.start(str(self._logs), options)
        if self._timeline is not None:
            self._timeline.start(folder)

    def mark(self, name: str) -> AbstractContextManager:
        """A trace's own event."""
        return tf.profiler.experimental.Trace(name)

    def stop(self) -> None:
        """Write rank-<rank>/plugins/profile/…/<host>.xplane.pb for TensorBoard, and the same as a Chrome trace."""
        if self._timeline is not None:
            self._timeline.stop()
        tf.profiler.experimental.stop()
        with gzip.open(self._path, "wt", compresslevel=1) as file:
            json.dump(chrome_trace(self._read()), file)

    def lanes(self) -> list[Lane]:
        """This process's GPUs or, without one, its CPU, which stands for all of its workers."""
        space = self._read()
        host = [event for plane in space.planes if plane.name == "/host:CPU" for event in host_events(plane)]
        marks = [event for event in host if event.kind == MARK]
        gpus = [plane for plane in space.planes if plane.name.startswith("/device:GPU:")]
        if gpus:
            lanes = [(plane.name.removeprefix("/device:").lower(), gpu_events(plane)) for plane in gpus]
            return [Lane(device, 1, marks + events, runs_behind=True) for device, events in lanes]
        if self._timeline is None:
            return [Lane("cpu", self._workers, host)]
        events = [
            event for event in host if event.kind != COMMUNICATION
        ]  # there operations are only handed over
        events += self._timeline.events(since_s=_began_s(space))
        return [Lane("cpu", self._workers, events, knows_communication=self._timeline.is_known)]

    def _read(self) -> Any:
        from tensorflow.tsl.profiler.protobuf import xplane_pb2

        (path,) = self._logs.glob("plugins/profile/*/*.xplane.pb")
        space = xplane_pb2.XSpace()
        space.ParseFromString(path.read_bytes())
        return space


def host_events(plane: Any) -> list[Event]:
    """Our marks, and operations by their type: collectives are communication, the rest computes."""
    found = []
    for thread, name, begin_s, end_s, is_compiled in _spans(plane):
        operation = OPERATION.match(name)
        if name.startswith("trimaran."):
            found.append(Event(MARK, name, thread, begin_s, end_s))
        elif is_compiled:
            found.append(Event(COMPUTE, f"XLA {NUMBERS.sub('', name)}", thread, begin_s, end_s))
        elif operation is not None and operation[1] not in BETWEEN_DEVICES:
            kind = COMMUNICATION if EXCHANGES.search(operation[1]) else COMPUTE
            found.append(Event(kind, operation[1], thread, begin_s, end_s))
    return found


def gpu_events(plane: Any) -> list[Event]:
    """Kernels and copies of one GPU, from its streams; NCCL's kernels are its communication."""
    return [
        Event(COMMUNICATION if "nccl" in name.lower() else COMPUTE, name, thread, begin_s, end_s)
        for thread, name, begin_s, end_s, _ in _spans(plane)
        if thread.startswith("Stream")  # the other lines are derived from these
    ]


def chrome_trace(space: Any) -> dict[str, Any]:
    """The whole trace in the format that Perfetto and chrome://tracing open; microseconds."""
    rows: list[dict[str, Any]] = []
    for process, plane in enumerate(space.planes):
        rows.append({"ph": "M", "pid": process, "name": "process_name", "args": {"name": plane.name}})
        threads: dict[str, int] = {}
        for thread, name, begin_s, end_s, _ in _spans(plane):
            number = threads.setdefault(thread, len(threads))
            times = {"ts": 1e6 * begin_s, "dur": 1e6 * (end_s - begin_s)}
            rows.append({"ph": "X", "pid": process, "tid": number, "name": name, **times})
        for thread, number in threads.items():
            names = {"name": "thread_name", "args": {"name": thread}}
            rows.append({"ph": "M", "pid": process, "tid": number, **names})
    return {"displayTimeUnit": "ms", "traceEvents": rows}


def _spans(plane: Any) -> Iterator[tuple[str, str, float, float, bool]]:
    """(thread, name, begin, end, whether XLA made it) of each event, in seconds since the trace began."""
    of_xla = {number for number, metadata in plane.stat_metadata.items() if metadata.name == "hlo_op"}
    names = {number: metadata.name for number, metadata in plane.event_metadata.items()}
    for line in plane.lines:
        for event in line.events:
            name = names[event.metadata_id]
            if not name.startswith(BOOKKEEPING):
                begin_s = line.timestamp_ns * 1e-9 + event.offset_ps * 1e-12
                is_compiled = any(stat.metadata_id in of_xla for stat in event.stats)
                end_s = begin_s + event.duration_ps * 1e-12
                yield f"{line.name} {line.id}", name, begin_s, end_s, is_compiled


def _began_s(space: Any) -> float:
    """When the trace began, in seconds since 1970."""
    for plane in space.planes:
        for stat in plane.stats:
            if plane.stat_metadata[stat.metadata_id].name == "profile_start_time":
                return float(stat.uint64_value or stat.int64_value) * 1e-9
    raise ValueError("the trace does not say when it began")
