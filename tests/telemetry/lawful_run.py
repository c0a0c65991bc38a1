"""Run directories whose power, load and pace follow a law, so that their summary is known beforehand."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.telemetry.telemetry_rows import end, gpu, host, start

STEP_S, STEPS = 0.5, 4
"""Windows of four steps, two seconds each."""
SAMPLES, TOKENS = 64, 6400
"""In a step, of all workers."""
POWER_MW = 500_000
Row = dict[str, Any]


def begin(name: str, num_gpus: int, boot_s: float, time_s: float = 0.0, **changes: Any) -> Row:
    """A start row. UUIDs are the host's own. boot_s: what its monotonic clock reads at the run's time 0."""
    row = start(num_gpus, host=name, boot_id=f"{round(boot_s):08x}", **changes)
    for device in row["devices"]:
        device["uuid"] = uuid(name, device["device"])
    return at(row, boot_s + time_s)


def uuid(name: str, device: int) -> str:
    return f"GPU-{name}-{device}"


def at(row: Row, t_monotonic_s: float) -> Row:
    # The wall clock is wrong by a year, and nobody may look at it.
    return row | {"t_monotonic_s": t_monotonic_s, "t_unix_s": 1.7e9}


def sampled(name: str, num_gpus: int, boot_s: float, times_s: Iterable[float]) -> list[Row]:
    """Samples at these times of the run. Each device takes POWER_MW; device k is busy for 80 + k percent."""
    rows = []
    for time_s in times_s:
        rows.append(at(host(0.0, cpu_percent=40.0), boot_s + time_s))
        for k in range(num_gpus):
            values = {
                "utilization_percent": 80 + k,
                "power_mw": POWER_MW,
                "energy_mj": 10**7 + round(POWER_MW * time_s),
                "memory_used_bytes": (20 + k) * 2**30,
                "tensor_active_percent": 40.5,
                "clocks_event_reasons": 0x4 if k == 1 else 0x0,
                "ecc_corrected": 3 if time_s > 5 else 2,
            }
            rows.append(at(gpu(0.0, k, uuid=uuid(name, k), **values), boot_s + time_s))
    return rows


def ended(boot_s: float, time_s: float, samples: int = 10) -> Row:
    return at(end(0.0, samples), boot_s + time_s)


def windows(
    name: str, boot_s: float, numbers: Iterable[int], begin_s: float = 0.0, pace: float = 1.0
) -> list[Row]:
    """Timing rows: window `number` covers its two seconds from `begin_s` on. A rank that waits less has a pace < 1."""
    return [
        {
            "step": STEPS * (number + 1),
            "steps": STEPS,
            "step_time_s": STEP_S * pace,
            "data_time_s": 0.1 * STEP_S * pace,
            "replaced_samples": 0,
            **at({}, boot_s + begin_s + STEPS * STEP_S * (number + 1)),
            "host": name,
            "boot_id": f"{round(boot_s):08x}",
        }
        for number in numbers
    ]


def metrics(numbers: Iterable[int], tokens: bool = True) -> list[Row]:
    steps = [STEPS * (number + 1) for number in numbers]
    return [
        {"step": n, "loss": 1.0, "samples": SAMPLES * n, "tokens": TOKENS * n if tokens else None}
        for n in steps
    ]


def write(
    folder: Path, files: dict[str, list[Row]], segments: list[Row] | None = None, cut: str = ""
) -> Path:
    """cut: what is added to the end of every file, as of a process killed within a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + cut)
    if segments is not None:
        (folder / "run.json").write_text(json.dumps({"recipe": {}, "segments": segments}))
    return folder
