"""The samples of a device, or of a host, in columns. Pure: rows in, arrays out. Unknown is NaN, or marked so."""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from telemetry.plain_rows import LARGEST, finite

GPU_GAUGES = (
    "utilization_percent",
    "memory_utilization_percent",
    "memory_used_bytes",
    "power_mw",
    "power_instant_mw",
    "temperature_c",
    "sm_clock_mhz",
    "memory_clock_mhz",
    "nvlink_rx_kib_s",
    "nvlink_tx_kib_s",
    "sm_active_percent",
    "sm_occupancy_percent",
    "tensor_active_percent",
    "dram_bandwidth_percent",
    "pcie_rx_kib_s",
    "pcie_tx_kib_s",
)
SLOW_GAUGES = ("pcie_rx_kib_s", "pcie_tx_kib_s")
"""Read less often than the others where reading takes long: they hold since the sample before it that has a value."""
HOST_GAUGES = (
    "cpu_percent",
    "memory_used_bytes",
    "network_rx_kib_s",
    "network_tx_kib_s",
    "disk_read_kib_s",
    "disk_write_kib_s",
)
ECC_COUNTERS = ("ecc_corrected", "ecc_uncorrected")
INTEGERS = ("energy_mj", "clocks_event_reasons", *ECC_COUNTERS)
BLOCK = 512
"""So many rows are packed into columns at a time."""
_EMPTY: dict[type, np.ndarray] = {kind: np.empty(0, kind) for kind in (float, bool, np.uint64)}


class Samples:
    """The rows of one device or host from one sampler session, in columns: a tenth of the memory of rows.

    gauges: GPU_GAUGES or HOST_GAUGES. slow_interval_s: between two readings of SLOW_GAUGES and the ECC counters.
    """

    def __init__(
        self, interval_s: float, gauges: Sequence[str], slow_interval_s: float | None = None
    ) -> None:
        self.interval_s = interval_s
        self.slow_interval_s = max(interval_s, slow_interval_s or 0.0)
        self.gauges = tuple(gauges)
        self._rows: list[Mapping[str, Any]] = []
        self._blocks: dict[str, list[np.ndarray]] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Rows may come in any order. One without a time, or of a lost device, is no sample."""
        if not (math.isnan(_number(row.get("t_monotonic_s"))) or row.get("lost")):
            self._rows.append(row)
            if len(self._rows) == BLOCK:
                self._pack()

    def column(self, name: str) -> np.ndarray:
        """t_monotonic_s or a gauge: float64 [n], NaN where it is unknown. Of integers: uint64 [n], 0 where unknown.

        Whether an integer is known, bool [n], has the name "knows <integer>".
        """
        self._pack()
        return np.concatenate(self._blocks[name]) if self._blocks else _EMPTY[_kind(name)]

    def _pack(self) -> None:
        rows, self._rows = self._rows, []
        if not rows:
            return
        for name in ("t_monotonic_s", *self.gauges):
            self._blocks.setdefault(name, []).append(_floats([row.get(name) for row in rows]))
        for name in INTEGERS:
            values, known = _integers([row.get(name) for row in rows])
            self._blocks.setdefault(name, []).append(values)
            self._blocks.setdefault(f"knows {name}", []).append(known)


def collect(
    rows: Iterable[Mapping[str, Any]], interval_s: float, gauges: Sequence[str] = GPU_GAUGES
) -> Samples:
    """Samples of these rows."""
    samples = Samples(interval_s, gauges)
    for row in rows:
        samples.add(row)
    return samples


@dataclass(frozen=True)
class Series:
    """The samples of all sessions of a device within one boot: arrays of [n], by strictly rising time.

    gauges: NaN is unknown. integers: (values as uint64, whether known).
    """

    time_s: np.ndarray
    session: np.ndarray
    interval_s: np.ndarray
    slow_interval_s: np.ndarray
    gauges: dict[str, np.ndarray]
    integers: dict[str, tuple[np.ndarray, np.ndarray]]


def merge(sessions: Sequence[Samples]) -> Series:
    """Where sessions overlap in time, the one that comes later in `sessions` is taken."""
    taken: list[tuple[Samples, int, np.ndarray]] = []
    later: list[tuple[float, float]] = []
    for number, samples in reversed(list(enumerate(sessions))):
        time_s, first = np.unique(samples.column("t_monotonic_s"), return_index=True)
        free = np.ones(len(time_s), bool)
        for begin_s, end_s in later:
            free &= (time_s < begin_s) | (time_s > end_s)
        if len(time_s):
            later.append((time_s[0], time_s[-1]))
        taken.append((samples, number, first[free]))

    def column(name: str) -> np.ndarray:
        return np.concatenate(
            [*(samples.column(name)[rows] for samples, _, rows in taken), _EMPTY[_kind(name)]]
        )

    def constant(of: Callable[[Samples, int], float]) -> np.ndarray:
        parts = (np.full(len(rows), of(samples, number), float) for samples, number, rows in taken)
        return np.concatenate([*parts, np.empty(0)])

    time_s = column("t_monotonic_s")
    order = np.argsort(time_s)
    return Series(
        time_s=time_s[order],
        session=constant(lambda samples, number: number)[order],
        interval_s=constant(lambda samples, number: samples.interval_s)[order],
        slow_interval_s=constant(lambda samples, number: samples.slow_interval_s)[order],
        gauges={name: column(name)[order] for name in (sessions[0].gauges if sessions else GPU_GAUGES)},
        integers={name: (column(name)[order], column(f"knows {name}")[order]) for name in INTEGERS},
    )


def _kind(name: str) -> type:
    return np.uint64 if name in INTEGERS else bool if name.startswith("knows ") else float


def _floats(values: list[Any]) -> np.ndarray:
    """float64; NaN for everything that is no number one can compute with."""
    if {type(value) for value in values} <= {int, float, type(None)}:
        with contextlib.suppress(OverflowError):
            numbers = np.array(values, float)
            return np.where(np.abs(numbers) < LARGEST, numbers, np.nan)
    return np.array([_number(value) for value in values])


def _integers(values: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """uint64, and whether they are such: they may use all of its 64 bits, which a float has not."""
    known = [type(value) is int and 0 <= value < 2**64 for value in values]
    return np.array([v if k else 0 for v, k in zip(values, known, strict=True)], np.uint64), np.array(known)


def _number(value: Any) -> float:
    """As a float; NaN for everything that is no number one can compute with."""
    found = finite(value)
    return math.nan if found is None else float(found)
