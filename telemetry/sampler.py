"""The process that reads the counters: one a host and run, at a fixed interval, into telemetry-<host>.jsonl.

    python -m telemetry.sampler FOLDER INTERVAL_S      (telemetry.sampling starts it)

A process of its own, so that the training's interpreter is never held up, and whatever happens to the library, the
GPU or this process, the training goes on. It reads from its standard input only to see it close: that is the end of the
process that started it, however that came about. It then takes a last sample and goes.
"""

import contextlib
import fcntl
import json
import math
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import psutil  # type: ignore[import-untyped] # its stubs are a package of their own

from telemetry.clock import clock
from telemetry.host import LEAST_INTERVAL_S, HostReader
from telemetry.nvml import DeviceLost, Nvml, NvmlUnavailable, Reader
from telemetry.samples import GpuSample
from telemetry.visibility import visible

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""Sent to every process of a step or a terminal. What they mean for us follows from what the training makes of them."""


class Sampler:
    """Takes samples and writes their rows."""

    def __init__(self, file: BinaryIO, interval_s: float) -> None:
        self._file = file
        self._interval_s = interval_s
        self._slow_every = max(1, math.ceil(round(LEAST_INTERVAL_S / interval_s, 6)))
        self._slow_due = 0
        self._host = HostReader()
        self.samples = self.on_time = self.slots = 0
        self._nvml: Nvml | None = None
        why = None
        try:
            self._nvml = Nvml()
        except NvmlUnavailable as error:
            why = str(error)
        self._readers = list(self._nvml.readers) if self._nvml else []
        self._write([self._start(why)])

    def run(self, until_closed: int) -> None:
        """Sample on the grid start + k * interval until the file descriptor `until_closed` is closed, or orphaned."""
        parent, start_s = os.getppid(), time.monotonic()
        slot = 0
        while True:
            due_s = start_s + slot * self._interval_s
            if _closed_before(until_closed, due_s) or os.getppid() != parent:
                break
            late_s = time.monotonic() - due_s
            self.sample(slot)
            self.on_time += late_s <= self._interval_s / 2
            # What was missed meanwhile is skipped, never made up for: the grid stays where it is.
            slot = max(slot + 1, int((time.monotonic() - start_s) / self._interval_s))
            self.slots = slot
        self.sample(self._slow_due)
        self._write([self._end()])

    def sample(self, slot: int) -> None:
        """One reading of everything. The host, and what takes the driver milliseconds, at most once a second."""
        now_s = time.monotonic()
        is_slow = slot >= self._slow_due
        rows: list[dict[str, Any]] = []
        if is_slow:
            self._slow_due = (slot // self._slow_every + 1) * self._slow_every
            rows.append({"kind": "host", **_times(now_s), **asdict(self._host.read(now_s))})
        rows += [row for reader in list(self._readers) for row in self._read(reader, is_slow)]
        self.samples += 1
        self._write(rows)

    def _read(self, reader: Reader, is_slow: bool) -> Iterator[dict[str, Any]]:
        now_s = time.monotonic()
        row = {"kind": "gpu", **_times(now_s), "device": reader.device.index, "uuid": reader.device.uuid}
        try:
            yield row | vars(reader.read(now_s, is_slow))
        except DeviceLost as error:  # it stays lost till it is reset, which needs every process gone
            self._readers.remove(reader)
            yield row | vars(GpuSample()) | {"lost": str(error)}

    def _start(self, why_no_nvml: str | None) -> dict[str, Any]:
        devices = self._nvml.devices if self._nvml else []
        shown = visible(devices, os.environ)
        return {
            "kind": "start",
            **_times(time.monotonic()),
            **clock(),
            "interval_s": self._interval_s,
            "host_interval_s": self._interval_s * self._slow_every,
            "nvml": why_no_nvml,
            "driver": self._nvml.driver if self._nvml else None,
            "devices": [
                {"device": device.index, **{key: value for key, value in asdict(device).items() if key != "index"},
                 "visible": flag}
                for device, flag in zip(devices, shown, strict=True)
            ],
            "cpu_cores": os.cpu_count(),
            "memory_total_bytes": psutil.virtual_memory().total,
        }  # fmt: skip

    def _end(self) -> dict[str, Any]:
        return {
            "kind": "end",
            **_times(time.monotonic()),
            "samples": self.samples,
            "on_time_percent": round(100 * self.on_time / self.slots, 2) if self.slots else None,
            "cpu_time_s": round(time.process_time(), 4),
        }

    def _write(self, rows: list[dict[str, Any]]) -> None:
        """All or nothing: on a full disk these rows are lost, and later ones may come again."""
        whole = self._file.tell()
        try:
            self._file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(whole)
                self._file.seek(whole)


def _times(now_s: float) -> dict[str, float]:
    return {"t_monotonic_s": round(now_s, 6), "t_unix_s": round(time.time(), 6)}


def _closed_before(descriptor: int, due_s: float) -> bool:
    """Wait until `due_s`; true as soon as nobody can write to `descriptor` any more."""
    while True:
        left_s = max(due_s - time.monotonic(), 0.0)
        if select.select([descriptor], [], [], left_s)[0] and not os.read(descriptor, 4096):
            return True
        if time.monotonic() >= due_s:
            return False


def open_alone(path: Path) -> BinaryIO | None:
    """The file, for us alone, after its last whole line; None where another sampler of this host writes it already."""
    file = open(path, "a+b", buffering=0)  # noqa: SIM115 (open as long as the process, which holds its lock)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:  # a file system without locks: one run seldom starts twice on a host
        pass
    file.seek(0)
    content = file.read()
    whole = content.rfind(b"\n") + 1  # an earlier sampler may have been killed within a line
    file.truncate(whole)
    file.seek(whole)
    return file


def main(folder: str, interval_s: str) -> int:
    """Sample until the process that started us is gone."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # a rank bound to a core, as by mpirun, would share it with us
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    file = open_alone(Path(folder) / f"telemetry-{clock()['host']}.jsonl")
    if file is None:
        return 0
    with file:
        Sampler(file, float(interval_s)).run(sys.stdin.fileno())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
