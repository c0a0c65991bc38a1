"""Scalars for TensorBoard, written by neither framework.

TensorBoard's own event writer imports TensorFlow wherever TensorFlow is installed, unless a module
`tensorboard.compat.notf` exists. So an empty one is put there first: PyTorch and TensorFlow runs write their
events by the same code, and neither imports the other's framework.
"""

import itertools
import os
import socket
import sys
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # noqa: E402  (must come after the stub)
from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: E402  (must come after the stub)
from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: E402  (must come after the stub)

FLUSH_SECONDS = 5
_numbers = itertools.count()


class ScalarWriter:
    """Writes the numbers of rows as scalars into a new event file in `directory`.

    In the calling thread: TensorBoard's EventFileWriter has one of its own, which prints a traceback and ends where
    the disk is full. Here that is an OSError, which all methods may raise.

    purge_step: on resuming, TensorBoard hides what earlier event files say of this step and later ones.
    """

    def __init__(self, directory: Path, purge_step: int | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        # TensorBoard's own names; it reads the files of a directory in their order.
        name = f"events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self._file = open(directory / name, "wb")  # noqa: SIM115 (open as long as the run)
        self._records = RecordWriter(self._file)
        self._next_flush_s = 0.0
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._add(Event(wall_time=time.time(), step=purge_step, session_log=start))

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        """Each number of `row` but the step itself, under its key as the tag."""
        values = [
            Summary.Value(tag=name, simple_value=float(value))
            for name, value in row.items()
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
        ]
        self._add(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Write what is still held and close the file."""
        self._file.close()

    def _add(self, event: Event) -> None:
        self._records.write(event.SerializeToString())
        if time.monotonic() >= self._next_flush_s:
            self._file.flush()
            self._next_flush_s = time.monotonic() + FLUSH_SECONDS
