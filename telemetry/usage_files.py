"""The windows of a run's devices and hosts as files: usage.jsonl, and scalars for TensorBoard."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from telemetry.join import Usage

PEAKS = (
    "utilization_percent",
    "tensor_active_percent",
    "memory_used_bytes",
    "power_mw",
    "temperature_c",
    "cpu_percent",
)
"""Gauges whose peak in each window is written beside the mean."""
CHARTED = (
    *PEAKS,
    "sm_clock_mhz",
    "dram_bandwidth_percent",
    "network_rx_kib_s",
    "network_tx_kib_s",
)
MOST_POINTS = 2000
"""Of one chart. TensorBoard itself shows 1000; of more windows every second, third, … is drawn."""
DECIMALS = {
    "_percent": 2,
    "_bytes": 0,
    "_mw": 0,
    "_mhz": 0,
    "_c": 1,
    "_kib_s": 1,
    "_j": 4,
    "_s": 5,
    "coverage": 4,
}


def rows(entry: dict[str, Any], step: np.ndarray, usage: Usage) -> Iterator[str]:
    """The lines of usage.jsonl for one device or host.

    entry: who it is. step: of its windows [w], usage: what it did in them.
    """
    columns: dict[str, np.ndarray] = {"window_s": usage.seconds, "coverage": usage.coverage}
    for name, mean in usage.mean.items():
        columns[name] = mean
        if name in PEAKS:
            columns[f"peak_{name}"] = usage.peak[name]
    if entry["kind"] == "gpu":
        columns |= {"energy_j": usage.energy_j, "energy_from_power_j": usage.energy_from_power_j}
        columns |= {"throttled_s": usage.throttled_s, "idle_s": usage.idle_s, **usage.ecc}
        columns |= {f"{name}_s": seconds for name, seconds in usage.throttled_s_by_reason.items()}
    who = {name: [entry[name]] * len(step) for name in ("kind", "host", "device", "uuid")}
    listed = {
        "step": step.tolist(),
        **who,
        **{name: _rounded(name, column) for name, column in columns.items()},
    }
    template, varying = [], []
    for name, values in listed.items():
        if len(set(values)) < 2:  # most are null, or one number all through: encoded once
            template.append(
                f"{json.dumps(name)}: {json.dumps(values[0] if values else None)}".replace("%", "%%")
            )
        else:
            template.append(f"{json.dumps(name)}: %s")
            varying.append(
                json.dumps(values)[1:-1].split(", ")
            )  # numbers and nulls, at a hundredth of the calls
    line = "{" + ", ".join(template) + "}\n"
    return (
        (line % values for values in zip(*varying, strict=True)) if varying else iter([line % ()] * len(step))
    )


def _rounded(name: str, values: np.ndarray) -> list[float | None]:
    """As a person would write them: more digits would only fill the disk."""
    decimals = next((places for unit, places in DECIMALS.items() if name.endswith(unit)), 0)
    known = ~np.isnan(values)
    shown = np.round(np.where(known, values, 0.0), decimals)
    listed = shown.tolist() if decimals else shown.astype(np.int64).tolist()
    return listed if known.all() else [v if there else None for v, there in zip(listed, known, strict=True)]


class Charts:
    """The scalars, gathered by step until all devices and hosts are through."""

    def __init__(self) -> None:
        self._rows: dict[int, dict[str, float]] = {}

    def keep(self, entry: dict[str, Any], step: np.ndarray, usage: Usage) -> None:
        """The means of one device or host in the windows that end with these steps, [w]."""
        every = -(-len(step) // MOST_POINTS) or 1
        unit = "host" if entry["kind"] == "host" else f"gpu{entry['device']}"
        for name in CHARTED:
            values = usage.mean.get(name, np.empty(0))[::every]
            for at, value in zip(step[::every].tolist(), values.tolist(), strict=False):
                if value == value:  # known
                    self._rows.setdefault(at, {})[f"telemetry/{entry['host']}/{unit}/{name}"] = value

    def write(self, tensorboard: Path) -> None:
        """Into a directory of their own, which is replaced as a whole: so no scalar is there twice."""
        folder, new = tensorboard / "telemetry", tensorboard / f".telemetry.{os.getpid()}.tmp"
        try:
            if self._rows:
                from telemetry.tensorboard import ScalarWriter

                writer = ScalarWriter(new)
                for step in sorted(self._rows):
                    writer.write(step, self._rows[step])
                writer.close()
            shutil.rmtree(folder, ignore_errors=True)
            if self._rows:
                new.rename(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
