"""What a run as a whole used: its windows, its devices, their sums. Pure: rows in, numbers out; unknown is None."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from telemetry.columns import GPU_GAUGES, HOST_GAUGES, Samples
from telemetry.join import Usage
from telemetry.plain_rows import end_row, finite, positive_s, start_row, whole, word

Row = Mapping[str, Any]
Pace = tuple[int, float, float]
"""Of one window: its steps, and the step_time_s and data_time_s of its slowest rank."""
Clock = tuple[str, str | None]
"""(host, boot_id): times of one may be compared."""


@dataclass
class Session:
    """What one sampler wrote: its start row, the samples of each device (by UUID) and of the host, its end row if any.

    lost: NVML's word for each device (by UUID) that was lost.
    """

    start: Row
    host: Samples
    devices: dict[str, Samples] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    end: Row | None = None

    @property
    def clock(self) -> Clock:
        return self.start["host"], self.start.get("boot_id")

    def shown(self) -> tuple[set[str], bool]:
        """UUIDs of the devices that the run may use, and whether that is known: else these are all that may be."""
        devices = self.start.get("devices") or []
        visible = [(device["uuid"], device.get("visible")) for device in devices if device.get("uuid")]
        shown = {uuid for uuid, is_visible in visible if is_visible}
        unclear = {uuid for uuid, is_visible in visible if is_visible is None}
        return (shown, True) if shown or not unclear else (unclear, False)


def sessions(rows: Iterable[Row]) -> list[Session]:
    """The sessions of one telemetry-<host>.jsonl. What comes before the first start row is left out."""
    found: list[Session] = []
    for row in rows:
        kind = row.get("kind")
        if kind == "start" and isinstance(row.get("host"), str) and positive_s(row.get("interval_s")):
            host_interval_s = positive_s(row.get("host_interval_s")) or row["interval_s"]
            found.append(Session(start_row(row), Samples(host_interval_s, HOST_GAUGES)))
        elif not found:
            continue
        elif kind == "host":
            found[-1].host.add(row)
        elif kind == "end":
            found[-1].end = end_row(row)
        elif kind == "gpu" and (uuid := word(row.get("uuid"))) is not None:
            if row.get("lost"):
                found[-1].lost[uuid] = word(row["lost"]) or "lost"
            elif (samples := found[-1].devices.get(uuid)) is None:
                samples = Samples(found[-1].start["interval_s"], GPU_GAUGES, found[-1].host.interval_s)
                found[-1].devices[uuid] = samples
                samples.add(row)
            else:
                samples.add(row)
    return found


@dataclass(frozen=True)
class Windows:
    """Windows of one host's clock, by step: the last step of each, and when it began and ended. Arrays of [w]."""

    step: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray


class Timing:
    """The windows of all ranks. Those of a host's ranks are one: all ranks report after the same steps."""

    def __init__(self) -> None:
        self._windows: dict[Clock, dict[int, tuple[float, float]]] = {}
        self._slowest: dict[str | None, dict[int, Pace]] = {}

    def add(self, row: Row) -> None:
        """A row of timing-<rank>.jsonl. One that makes no sense is left out; one without a host counts for the run."""
        step, steps, boot_id = whole(row.get("step")), whole(row.get("steps")), word(row.get("boot_id"))
        step_time_s, data_time_s = (
            positive_s(row.get("step_time_s")),
            positive_s(row.get("data_time_s")) or 0.0,
        )
        end_s = finite(row.get("t_monotonic_s"))
        if step is None or steps is None or steps <= 0 or not step_time_s:
            return
        host = word(row.get("host"))
        _slower(self._slowest.setdefault(host, {}), step, (steps, step_time_s, data_time_s))
        if host and end_s is not None:
            clock = host, boot_id
            windows = self._windows.setdefault(clock, {})
            windows.setdefault(step, (end_s - steps * step_time_s, end_s))

    def clocks(self) -> list[Clock]:
        """Of all hosts that took part."""
        return list(self._windows)

    def windows(self, clock: Clock) -> Windows:
        """By rising step; a step that several ranks of the host report has the times of the first."""
        found = self._windows.get(clock, {})
        order = sorted(found)
        times = np.array([found[step] for step in order], float).reshape(-1, 2)
        return Windows(np.array(order, np.int64), times[:, 0], times[:, 1])

    def steps(self) -> tuple[np.ndarray, np.ndarray]:
        """The last step of each window of the run, rising, and how many steps each has."""
        slowest = self._of_all()
        order = sorted(slowest)
        return np.array(order, np.int64), np.array([slowest[step][0] for step in order], np.int64)

    def slowest(self, host: str | None = None) -> dict[str, float | None]:
        """Of the slowest rank in each window (of one host, or of all): the median step time, and how much of the whole
        time was spent waiting for data."""
        slowest = self._of_all() if host is None else self._slowest.get(host, {})
        rows = np.array(list(slowest.values()), float).reshape(-1, 3)
        if not len(rows):
            return {"step_time_s": None, "data_time_share": None}
        steps, step_time_s, data_time_s = rows.T
        return {
            "step_time_s": float(np.median(step_time_s)),
            "data_time_share": float((steps * data_time_s).sum() / (steps * step_time_s).sum()),
        }

    def _of_all(self) -> dict[int, Pace]:
        slowest: dict[int, Pace] = {}
        for of_host in self._slowest.values():
            for step, pace in of_host.items():
                _slower(slowest, step, pace)
        return slowest


class Used:
    """Which devices the run used at a step: by the UUIDs that its ranks told, else by what its processes could see.

    segments: of run.json; anything else counts as none.
    """

    def __init__(self, segments: object) -> None:
        segments = segments if isinstance(segments, list) else []
        known = [one for one in segments if isinstance(one, Mapping)]
        self._first_steps = [whole(one.get("first_step")) or 0 for one in known]
        self._uuids = [_uuids(one) for one in known]
        self.by_uuid = bool(self._uuids) and self._uuids[-1] is not None

    def told(self, step: np.ndarray) -> np.ndarray:
        """How many devices the ranks told of at each step [w]; -1 where they told of none."""
        counts = [-1 if uuids is None else len(uuids) for uuids in self._uuids]
        return np.array([-1, *counts])[self._segment(step)]

    def at(self, uuid: str, step: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """bool [w]: whether the device is used at each step. shown: bool [w], the rule where the ranks told nothing."""
        mine = [uuids is not None and _bare(uuid) in uuids for uuids in self._uuids]
        return np.where(self.told(step) < 0, shown, np.array([False, *mine])[self._segment(step)])

    def _segment(self, step: np.ndarray) -> np.ndarray:
        """1 + the segment that made each step: the newest that began before it."""
        found = np.zeros(len(step), np.int64)
        for number, first_step in enumerate(self._first_steps, start=1):
            found[step > first_step] = number
        return found


class Energy:
    """Sums the energy of all devices in each window of the run. It is known where that of every device is."""

    def __init__(self, step: np.ndarray, used: Used) -> None:
        self._step, self._told = step, used.told(step)
        self._joules = np.zeros(len(step))
        self._devices = np.zeros(len(step), np.int64)
        self._known = np.ones(len(step), bool)

    def add(self, step: np.ndarray, energy_j: np.ndarray) -> None:
        """Of one device in the windows in which it is used; step, energy_j: [w]."""
        where = np.searchsorted(self._step, step)
        self._joules[where] += np.nan_to_num(energy_j)
        self._known[where] &= ~np.isnan(energy_j)
        self._devices[where] += 1

    def no_device(self, step: np.ndarray) -> None:
        """A host took part in these windows with no device that we know of."""
        where = np.searchsorted(self._step, step)
        self._known[where] &= self._told[where] > 0

    def per(self, counts: Mapping[int, float], steps: np.ndarray) -> tuple[float | None, float | None]:
        """Joules for each sample (or token), and in what share of the windows both are known.

        counts: samples since the run's beginning, by step. steps: of each window. The ratio is one of sums.
        """
        count = {0: 0.0, **counts}
        done = np.array([count.get(step, np.nan) for step in self._step.tolist()])
        before = np.array([count.get(step, np.nan) for step in (self._step - steps).tolist()])
        amount = done - before
        known = self._known & (self._devices > 0) & (self._devices >= self._told) & (amount > 0)
        if not known.any():
            return None, (0.0 if len(known) else None)
        return float(self._joules[known].sum() / amount[known].sum()), float(known.mean())


def totals(usage: Usage) -> dict[str, Any]:
    """All windows of a device or host together: means weighted with time, sums of the windows that are known."""
    whole: dict[str, Any] = {
        "windows": len(usage.seconds),
        "coverage": _divide(usage.covered_s.sum(), usage.seconds.sum()),
    }
    for name, mean in usage.mean.items():
        known = ~np.isnan(mean)
        weights = usage.known_s[name][known]
        whole[name] = {
            "mean": _divide((mean[known] * weights).sum(), weights.sum()),
            "peak": float(usage.peak[name][known].max()) if known.any() else None,
        }
    return whole


def device_totals(usage: Usage) -> dict[str, Any]:
    """`totals`, and energy, throttling and idling."""
    known = ~np.isnan(usage.energy_j)
    return totals(usage) | {
        "energy_j": _sum(usage.energy_j),
        "energy_windows_share": _divide(known.sum(), len(known)),
        "energy_from_power_j": _sum(usage.energy_from_power_j),
        "throttled_s": _sum(usage.throttled_s),
        "throttled_s_by_reason": {
            name: _sum(seconds) for name, seconds in usage.throttled_s_by_reason.items()
        },
        "idle_s": _sum(usage.idle_s),
    }


def add(values: Iterable[float | None]) -> float | None:
    """The sum of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _slower(slowest: dict[int, Pace], step: int, pace: Pace) -> None:
    old = slowest.get(step)
    slowest[step] = pace if old is None else (pace[0], max(pace[1], old[1]), max(pace[2], old[2]))


def _sum(values: np.ndarray) -> float | None:
    return None if np.isnan(values).all() else float(np.nansum(values))


def _divide(over: float, under: float) -> float | None:
    return float(over / under) if under > 0 else None


def _uuids(segment: Row) -> set[str] | None:
    """None where the ranks did not tell. On a CPU they use no device, whatever the host has."""
    uuids = segment.get("device_uuids")
    told = {_bare(uuid) for uuid in uuids if isinstance(uuid, str)} if isinstance(uuids, list) else set()
    settings = segment.get("settings")
    if not told and isinstance(settings, Mapping) and settings.get("device") == "cpu":
        return set()
    return told or None


def _bare(uuid: str) -> str:
    """Without NVML's prefix GPU- or MIG-, which frameworks leave out or mistake for one another."""
    return uuid[-36:].lower()
