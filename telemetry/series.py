"""The rows of telemetry-<host>.jsonl as NumPy arrays, a set a device, and what follows from them.

Time is in seconds since the file's first "start" row. Unknown values are NaN here, and stay unknown.
"""

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from telemetry.run_log import parse_row

GPU_COUNTERS = (
    "utilization_percent",
    "sm_active_percent",
    "tensor_active_percent",
    "power_mw",
    "energy_mj",
    "memory_used_bytes",
    "temperature_c",
    "sm_clock_mhz",
    "memory_clock_mhz",
    "clocks_event_reasons",
)
HOST_COUNTERS = ("cpu_percent", "memory_used_bytes", "network_rx_kib_s", "network_tx_kib_s")
DEVICE_KEYS = ("uuid", "name", "memory_total_bytes", "power_limit_mw", "visible")
GPU_IDLE = 0x1
THROTTLE_REASONS = {
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x8: "hw_slowdown",
    0x20: "sw_thermal_slowdown",
    0x4: "sw_power_cap",
}
"""NVML's bits for clocks held down by heat or power, the most telling first: 0x8 often comes with 0x40 or 0x80."""
GAP = 1.75
"""Samples further apart than this many intervals have a gap between them."""


@dataclass(frozen=True)
class Line:
    """Samples of one device or host: all arrays are [samples], in order of time.

    begins: whether a gap, or nothing, is before the sample. left_s, right_s: the time that a sample stands for,
    up to half-way to its neighbours, and half an interval where there is a gap.
    """

    time_s: np.ndarray
    session: np.ndarray
    begins: np.ndarray
    left_s: np.ndarray
    right_s: np.ndarray
    values: dict[str, np.ndarray]

    def known(self, counter: str) -> bool:
        """Whether there is any value at all."""
        return bool(np.isfinite(self.values[counter]).any())

    def mean(self, counter: str) -> float | None:
        """Over the time that samples with a value stand for."""
        values = self.values[counter]
        there = np.isfinite(values)
        weights = (self.right_s - self.left_s)[there]
        return float(np.average(values[there], weights=weights)) if weights.sum() > 0 else None

    def peak(self, counter: str) -> float | None:
        values = self.values[counter]
        return float(np.nanmax(values)) if self.known(counter) else None

    def seconds(self, where: np.ndarray) -> float:
        """The time that the samples chosen by `where`, bool [samples], stand for."""
        return float((self.right_s - self.left_s)[where].sum())

    def share(self, where: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Edges in seconds, [most + 1], of buckets of equal time, and the share of each that chosen samples take."""
        edges_s = np.linspace(0, max(float(self.right_s[-1]), 1e-9), most + 1)
        knots_s = np.stack([self.left_s, self.right_s], axis=1).ravel()
        taken_s = np.stack([np.zeros(len(where)), (self.right_s - self.left_s) * where], axis=1).ravel()
        share = np.diff(np.interp(edges_s, knots_s, np.cumsum(taken_s))) / np.diff(edges_s)
        return edges_s, np.where(share < 1e-9, 0, share)

    def spans(self, where: np.ndarray) -> list[tuple[float, float]]:
        """(from, to) in seconds of each run of chosen samples; never across a gap."""
        found: list[tuple[float, float]] = []
        for index in np.flatnonzero(where):
            left, right = float(self.left_s[index]), float(self.right_s[index])
            if found and not self.begins[index] and where[index - 1]:
                found[-1] = (found[-1][0], right)
            else:
                found.append((left, right))
        return found


@dataclass(frozen=True)
class Gpu:
    """One GPU or MIG instance. lost: when it was lost (seconds) and NVML's word for it."""

    label: str
    uuid: str
    name: str
    memory_total_bytes: int | None
    power_limit_mw: int | None
    visible: bool | None
    line: Line
    lost: tuple[float, str] | None

    def has_reason(self, bits: int) -> np.ndarray:
        """bool [samples]: any of these bits is set; false where unknown."""
        reasons = np.nan_to_num(self.line.values["clocks_event_reasons"]).astype(np.int64)
        return (reasons & bits) != 0

    def idle(self) -> np.ndarray:
        """bool [samples]: no kernel ran, or the clocks were low for want of work."""
        return (self.line.values["utilization_percent"] == 0) | self.has_reason(GPU_IDLE)

    def energy_j(self) -> float | None:
        """By the counter, last minus first of each session. One that began anew at 0 adds what it has since."""
        values = self.line.values["energy_mj"]
        there = np.isfinite(values)
        energy, session = values[there], self.line.session[there]
        grown = np.diff(energy)
        grown = np.where(grown < 0, energy[1:], grown)[session[1:] == session[:-1]]
        return float(grown.sum()) / 1e3 if grown.size else None


@dataclass(frozen=True)
class Host:
    """One file: its sessions' first and last rows, and what was sampled in between."""

    starts: list[Mapping[str, Any]]
    ends: list[Mapping[str, Any] | None]
    gpus: list[Gpu]
    line: Line

    @property
    def duration_s(self) -> float:
        """From the first start row to the end of the last sample."""
        return max((float(line.right_s[-1]) for line in self.lines() if line.time_s.size), default=0.0)

    def lines(self) -> list[Line]:
        return [self.line, *(gpu.line for gpu in self.gpus)]


class _Samples:
    """Numbers only: the rows themselves, of days at a sample a second, would fill the memory."""

    def __init__(self, counters: tuple[str, ...]) -> None:
        self.counters = counters
        self.times_s, self.sessions, self.values = array("d"), array("q"), array("d")

    def add(self, time_s: float, session: int, row: Mapping[str, Any]) -> None:
        self.times_s.append(time_s)
        self.sessions.append(session)
        self.values.extend(math.nan if (value := row.get(name)) is None else value for name in self.counters)


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """One row after the other of a file that may be large. A last line that was cut short is left out.

    Raises ValueError if another line is not a JSON object.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            row = parse_row(line)
            if row is not None:
                yield row
            elif line.endswith(b"\n"):
                raise ValueError(f"{path}: line {number} is no JSON object; mend or remove that line")


def read_host(rows: Iterable[Mapping[str, Any]]) -> Host:
    """The rows of one telemetry-<host>.jsonl.

    Raises ValueError if a row of samples comes before the first "start" row, or if there is none.
    """
    starts: list[Mapping[str, Any]] = []
    ends: list[Mapping[str, Any] | None] = []
    devices: dict[str, Mapping[str, Any]] = {}
    of_gpus: dict[str, _Samples] = {}
    of_host = _Samples(HOST_COUNTERS)
    lost: dict[str, tuple[float, str]] = {}
    offset_s = latest_s = 0.0
    for row in rows:
        kind = row.get("kind")
        if kind == "start":
            # The monotonic clock begins anew with a reboot; clocks that were set back do not turn time back.
            sooner_s = row["t_unix_s"] - starts[0]["t_unix_s"] if starts else 0.0
            offset_s = max(sooner_s, latest_s) - row["t_monotonic_s"]
            starts.append(row)
            ends.append(None)
            devices |= {device["uuid"]: device for device in row["devices"]}
            continue
        if not starts:
            raise ValueError(f"telemetry: found a row {kind!r}, expected a start row before it")
        latest_s = max(latest_s, time_s := row["t_monotonic_s"] + offset_s)
        if kind == "end":
            ends[-1] = row
        elif kind == "gpu" and row.get("lost"):
            lost[row["uuid"]] = (time_s, row["lost"])
        elif kind in ("gpu", "host"):
            samples = of_host if kind == "host" else of_gpus.setdefault(row["uuid"], _Samples(GPU_COUNTERS))
            samples.add(time_s, len(starts) - 1, row)
    if not starts:
        raise ValueError("telemetry: found no start row, expected one; the sampler did not get that far")
    gpus = [
        Gpu(
            label=_label(device, devices.values()),
            line=_line(of_gpus.get(uuid, _Samples(GPU_COUNTERS)), starts, "interval_s"),
            lost=lost.get(uuid),
            **{name: device.get(name) for name in DEVICE_KEYS},  # type: ignore[arg-type] # as the file has them
        )
        for uuid, device in sorted(devices.items(), key=lambda item: item[1]["device"])
    ]
    # The host is read at most once a second.
    key = "host_interval_s" if all("host_interval_s" in start for start in starts) else "interval_s"
    return Host(starts, ends, gpus, _line(of_host, starts, key))


def _label(device: Mapping[str, Any], devices: Iterable[Mapping[str, Any]]) -> str:
    if device.get("parent_uuid") is None:
        return f"GPU {device['device']}"
    instances = [other["uuid"] for other in devices if other.get("parent_uuid") == device["parent_uuid"]]
    return f"GPU {device['device']} MIG {instances.index(device['uuid'])}"


def _line(samples: _Samples, starts: list[Mapping[str, Any]], interval_key: str) -> Line:
    time_s = np.array(samples.times_s, np.float64)
    session = np.array(samples.sessions, np.int64)
    table = np.array(samples.values, np.float64).reshape(len(time_s), len(samples.counters))
    half_s = np.array([start[interval_key] for start in starts], np.float64)[session] / 2
    begins = np.ones(len(time_s), bool)
    begins[1:] = (np.diff(time_s) > 2 * GAP * half_s[1:]) | (np.diff(session) != 0)
    middle_s = (time_s[1:] + time_s[:-1]) / 2
    left_s, right_s = np.maximum(time_s - half_s, 0), time_s + half_s
    left_s[1:] = np.where(begins[1:], left_s[1:], middle_s)
    right_s[:-1] = np.where(begins[1:], right_s[:-1], middle_s)
    values = {name: table[:, column] for column, name in enumerate(samples.counters)}
    return Line(time_s, session, begins, left_s, right_s, values)


def drawn(line: Line, values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(time, least, mean, greatest) to draw, each [points], with a NaN in every gap.

    Up to `most` samples are drawn as they are; more of them in most / 2 buckets of equal time.
    """
    time_s, begins = line.time_s, line.begins
    if len(time_s) <= most:
        low = mean = high = values
    else:
        end_s = max(float(time_s[-1]), 1e-9)
        bucket = np.minimum((time_s / end_s * (most // 2)).astype(np.int64), most // 2 - 1)
        first = np.flatnonzero(np.diff(bucket, prepend=-1))
        begins = begins[first]
        time_s = np.add.reduceat(time_s, first) / np.diff(first, append=len(values))
        low, high = np.fmin.reduceat(values, first), np.fmax.reduceat(values, first)
        count = np.add.reduceat(np.isfinite(values).astype(np.int64), first)
        total = np.add.reduceat(np.nan_to_num(values), first)
        mean = np.divide(total, count, out=np.full(len(first), np.nan), where=count > 0)
    holes = np.flatnonzero(begins)[1:]
    between_s = (time_s[holes - 1] + time_s[holes]) / 2
    cut = [np.insert(array, holes, np.nan) for array in (low, mean, high)]
    return np.insert(time_s, holes, between_s), cut[0], cut[1], cut[2]
