"""What a run's directory tells beside its pace: memory, how it began, what its devices did, hardware, versions."""

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from telemetry.run_log import read_object, read_rows


@dataclass(frozen=True)
class Details:
    """All None where the run's files do not tell.

    first_step_s: the first step, with what it compiles. until_first_step_s: from the start of the main process, with
    the framework's import, to the end of that step. wall_s: the whole run, its launcher included.
    peak_memory_bytes: of the process that used most. busy, tensor_active, host CPU: means over the run, in percent.
    """

    id: str
    segment: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    parameter_count: int | None = None
    wall_s: float | None = None
    first_step_s: float | None = None
    until_first_step_s: float | None = None
    peak_memory_bytes: float | None = None
    gpu_busy_percent: float | None = None
    tensor_active_percent: float | None = None
    gpu_memory_bytes: float | None = None
    host_cpu_percent: float | None = None
    energy_per_sample_j: float | None = None
    throttled_s: float | None = None

    @property
    def device(self) -> str:
        """What one worker computed on, for a person."""
        settings, hardware = self.segment.get("settings") or {}, self.segment.get("hardware") or {}
        if settings.get("device") == "cpu":
            return f"one core of {hardware.get('cpu') or 'a CPU'}"
        gpus = hardware.get("gpus") or [{}]
        return str(settings.get("device_name") or gpus[0].get("name") or "an unknown device")

    @property
    def on_cpu(self) -> bool:
        """Whether its workers were CPU cores."""
        return (self.segment.get("settings") or {}).get("device") == "cpu"

    @property
    def command(self) -> str | None:
        """As a shell takes it."""
        words = self.segment.get("command")
        if not words:
            return None
        return words if isinstance(words, str) else "python " + shlex.join(map(str, words))


def read_details(study_dir: Path) -> dict[str, Details]:
    """Of every run of study.json, by id."""
    runs = json.loads((study_dir / "study.json").read_bytes())["runs"]
    return {run["id"]: _read(study_dir / run["directory"], run) for run in runs}


def _read(run_dir: Path, run: Mapping[str, Any]) -> Details:
    content, summary = read_object(run_dir / "run.json"), read_object(run_dir / "summary.json")
    segment = (content.get("segments") or [{}])[-1]
    return Details(
        run["id"],
        segment,
        content.get("recipe") or {},
        content.get("parameter_count"),
        run.get("wall_s"),
        **_timing(run_dir, segment),
        gpu_busy_percent=_mean(summary, "devices", "utilization_percent"),
        tensor_active_percent=_mean(summary, "devices", "tensor_active_percent"),
        gpu_memory_bytes=max(_all(summary, "devices", "memory_used_bytes", "peak"), default=None),
        host_cpu_percent=_mean(summary, "hosts", "cpu_percent"),
        energy_per_sample_j=summary.get("energy_per_sample_j"),
        throttled_s=summary.get("throttled_s"),
    )


def _timing(run_dir: Path, segment: Mapping[str, Any]) -> dict[str, float | None]:
    """The slowest rank's first step, and the most memory of any."""
    first, ends, memory = [], [], []
    for path in sorted(run_dir.glob("timing-*.jsonl")):
        try:
            rows = read_rows(path)
        except (OSError, ValueError):
            continue
        memory += [row["peak_memory_bytes"] for row in rows if row.get("peak_memory_bytes")]
        if rows and rows[0].get("step") == 1:
            first.append(rows[0].get("step_time_s"))
            ends.append(rows[0].get("t_unix_s"))
    known_first, known_ends = [one for one in first if one], [one for one in ends if one]
    started = segment.get("process_started_unix_s")
    return {
        "first_step_s": max(known_first, default=None),
        "until_first_step_s": max(known_ends) - started if known_ends and started else None,
        "peak_memory_bytes": max(memory, default=None),
    }


def _all(summary: Mapping[str, Any], kind: str, counter: str, figure: str) -> list[float]:
    found = [(one.get(counter) or {}).get(figure) for one in summary.get(kind) or []]
    return [value for value in found if value is not None]


def _mean(summary: Mapping[str, Any], kind: str, counter: str) -> float | None:
    found = _all(summary, kind, counter, "mean")
    return sum(found) / len(found) if found else None


def middle(found: Iterable[Details], name: str) -> float | None:
    """The median over the runs that know it."""
    known = [value for one in found if (value := getattr(one, name)) is not None]
    return median(known) if known else None


def machines(found: Iterable[Details]) -> list[tuple[str, str]]:
    """(name, value) of hardware, settings and versions; where runs differ, all values."""
    facts: dict[str, dict[str, None]] = {}
    for one in found:
        for name, value in _facts(one):
            facts.setdefault(name, {})[value] = None
    return [(name, "; ".join(values)) for name, values in facts.items()]


def _facts(one: Details) -> Iterable[tuple[str, str]]:
    hardware, settings = one.segment.get("hardware") or {}, one.segment.get("settings") or {}
    for name, key in (("host", "host"), ("system", "system"), ("CPU", "cpu"), ("driver", "driver")):
        if hardware.get(key):
            yield name, str(hardware[key])
    if hardware.get("cpu_cores"):
        usable = hardware.get("cpu_cores_usable")
        yield "CPU cores", f"{hardware['cpu_cores']}" + (f", {usable} usable" if usable else "")
    if hardware.get("memory_bytes"):
        yield "memory", f"{hardware['memory_bytes'] / 2**30:.0f} GiB"
    if gpus := hardware.get("gpus"):
        yield "GPUs", f"{len(gpus)} x {gpus[0].get('name') or 'unknown'}"
    if one.recipe.get("precision"):
        yield "precision", str(one.recipe["precision"])
    for name in ("threads", "tf32", "autocast", "policy", "xla", "compiled", "cuda"):
        if settings.get(name) is not None:
            yield f"{name} ({settings.get('framework')})", str(settings[name]).lower()
    for name, version in (one.segment.get("versions") or {}).items():
        if version:
            yield name, str(version)
