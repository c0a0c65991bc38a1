"""Made-up rows of a telemetry-<host>.jsonl."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

GPU_KEYS = (
    "utilization_percent", "memory_utilization_percent", "memory_used_bytes", "power_mw", "power_instant_mw",
    "energy_mj", "temperature_c", "sm_clock_mhz", "memory_clock_mhz", "clocks_event_reasons", "pcie_rx_kib_s",
    "pcie_tx_kib_s", "nvlink_rx_kib_s", "nvlink_tx_kib_s", "ecc_corrected", "ecc_uncorrected", "sm_active_percent",
    "sm_occupancy_percent", "tensor_active_percent", "dram_bandwidth_percent",
)  # fmt: skip
BOOTED_UNIX_S = 1_790_000_000.0
Row = dict[str, Any]


def times(time_s: float) -> Row:
    """The monotonic clock reads 1000 where the run's time is 0."""
    return {"t_monotonic_s": 1000 + time_s, "t_unix_s": BOOTED_UNIX_S + 1000 + time_s}


def start(num_gpus: int = 1, time_s: float = 0.0, **changes: Any) -> Row:
    devices = [
        {"device": i, "uuid": f"GPU-{i}", "name": "NVIDIA H100 80GB HBM3", "memory_total_bytes": 80 * 2**30,
         "power_limit_mw": 700_000, "pci_bus_id": None, "parent_uuid": None, "visible": True}
        for i in range(num_gpus)
    ]  # fmt: skip
    nvml = None if num_gpus else "libnvidia-ml.so.1 not found"
    common = {"host": "node1", "boot_id": "0a1b2c3d", "interval_s": 1.0, "nvml": nvml, "driver": "570.1",
              "devices": devices, "cpu_cores": 8, "memory_total_bytes": 64 * 2**30}  # fmt: skip
    return {"kind": "start", **times(time_s), **common, **changes}


def gpu(time_s: float, device: int = 0, **values: Any) -> Row:
    row = {"kind": "gpu", **times(time_s), "device": device, "uuid": f"GPU-{device}"}
    return row | dict.fromkeys(GPU_KEYS) | values


def host(time_s: float, cpu_percent: float | None = 50.0) -> Row:
    names = ("network_rx_kib_s", "network_tx_kib_s", "disk_read_kib_s", "disk_write_kib_s")
    rates = dict.fromkeys(names, None if cpu_percent is None else 2048.0)
    return {
        "kind": "host",
        **times(time_s),
        "cpu_percent": cpu_percent,
        "memory_used_bytes": 8 * 2**30,
        **rates,
    }


def end(time_s: float, samples: int) -> Row:
    return {"kind": "end", **times(time_s), "samples": samples, "on_time_percent": 100.0, "cpu_time_s": 0.5}


def run(num_gpus: int, seconds: int, gap: tuple[int, int] = (0, 0), gpm: bool = True) -> list[Row]:
    """Idle for a twelfth at both ends, throttled in between, odd GPUs a little behind; no samples within `gap`."""
    rows, energy_mj = [start(num_gpus)], [5_000_000] * max(num_gpus, 1)
    for second in range(seconds):
        part = second / seconds
        is_idle = not 1 / 12 <= part < 11 / 12
        if gap[0] <= second < gap[1]:
            continue
        rows.append(host(second, None if second == 0 else 30 + 20 * math.sin(second / 5)))
        for i in range(num_gpus):
            busy = 0 if is_idle else 97 - 20 * (i % 2) + 3 * math.sin(second / 3 + i)
            mask = 0x1 if is_idle else 0x4 if 0.3 < part < 0.4 else 0x48 if 0.6 < part < 0.7 and i == 0 else 0
            power_mw = 90_000 + busy * 6_000
            energy_mj[i] += round(power_mw)
            values = {
                "utilization_percent": round(busy), "power_mw": round(power_mw), "energy_mj": energy_mj[i],
                "memory_used_bytes": (2 if is_idle else 61 + i % 3) * 2**30, "temperature_c": 35 + round(busy / 3),
                "sm_clock_mhz": 345 if is_idle else 1400 if mask else 1980, "memory_clock_mhz": 2619,
                "clocks_event_reasons": mask, "sm_active_percent": busy * 0.9 if gpm else None,
                "tensor_active_percent": busy * 0.45 if gpm else None,
            }  # fmt: skip
            rows.append(gpu(second + 0.003 * (i + 1), i, **values))
    return [*rows, end(seconds, seconds)]


def write(path: Path, rows: Iterable[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
