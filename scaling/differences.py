"""What differs between runs that share a chart: nothing is put side by side without saying so (invariant 8).

Compared are the recipe (for weak scaling with the batch of a worker in place of the global one), the digests of
data, initial values and learning rates, versions, hardware, settings, and clocks where they were sampled. What a
strategy or a number of workers brings with it is left out: `[run]`, the launcher, the command, device UUIDs, inter-op
threads. Settings that only one framework has, or that mean something else there, are compared within a framework,
and a fact that some run.json does not have at all (an older version's) only among those that have it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from scaling.records import Record

DIGESTS = ("data", "initial_parameters", "learning_rates")
SHARED_SETTINGS = ("device", "device_name", "tf32")
NOT_COMPARED = ("framework", "device_uuid", "inter_op_threads")
HARDWARE = ("host", "system", "cpu", "cpu_cores", "cpu_cores_usable", "memory_bytes", "driver")
CLOCKS = ("sm_clock_mhz", "memory_clock_mhz")
CLOCK_TOLERANCE = 0.02
"""A clock that wanders by less than this part of itself is the same clock."""
MOST_NAMED = 4
"""Runs that a sentence names one by one."""


def differences(records: Iterable[Record], scaling: str) -> list[str]:
    """A sentence for each fact that is not the same in all runs that have a run.json; empty when nothing differs.

    scaling: that of the chart, "weak" or "strong", which says what batch the runs should share.
    """
    values: dict[str, dict[str, list[str]]] = {}
    present = [record for record in records if record.fingerprint]
    for record in present:
        for key, value in _facts(record, scaling):
            values.setdefault(key, {}).setdefault(_shown(value), []).append(record.id)
    sentences = [_sentence(key, found) for key, found in values.items() if len(found) > 1]
    return sentences + [sentence for clock in CLOCKS for sentence in _clock(clock, present)]


def _facts(record: Record, scaling: str) -> Iterator[tuple[str, Any]]:
    """Names of what is compared, as they stand in run.json, with their values."""
    content = record.fingerprint
    segment = content["segments"][-1]
    yield from _recipe(content["recipe"], record, scaling)
    digests = content.get("digests") or {}
    yield from ((f"digests.{name}", digests.get(name)) for name in DIGESTS)
    yield "code_digest", segment.get("code_digest")
    yield f"eager ({record.framework})", segment.get("eager")
    for name, value in (segment.get("versions") or {}).items():
        yield f"versions.{name}", value
    hardware = segment.get("hardware") or {}
    yield from ((f"hardware.{name}", hardware.get(name)) for name in HARDWARE)
    yield "hardware.gpus", sorted({str(gpu.get("name")) for gpu in hardware.get("gpus") or []})
    for name, value in (segment.get("settings") or {}).items():
        if name == "threads":
            yield "settings.threads / workers of a process", _of_a_worker(value, record)
        elif name in SHARED_SETTINGS:
            yield f"settings.{name}", value
        elif name not in NOT_COMPARED:
            yield f"settings.{name} ({record.framework})", value


def _of_a_worker(threads: Any, record: Record) -> Any:
    """A process may drive several workers, and then has the threads of all of them."""
    return (
        threads * len(record.step_time_s) / record.workers if threads and len(record.step_time_s) else threads
    )


def _recipe(recipe: Mapping[str, Any], record: Record, scaling: str) -> Iterator[tuple[str, Any]]:
    for table, content in recipe.items():
        if table == "run":
            continue
        for name, value in content.items() if isinstance(content, Mapping) else [(None, content)]:
            if (table, name) != ("data", "global_batch"):
                yield f"recipe.{table}" + (f".{name}" if name else ""), value
            elif scaling == "weak":
                yield "recipe.data.global_batch / workers", value / record.workers
            else:
                yield "recipe.data.global_batch", value


def _clock(name: str, records: list[Record]) -> Iterator[str]:
    """A sentence where the clocks of the runs are further apart than they wander."""
    found = [(clock, record.id) for record in records if (clock := _slowest_mhz(name, record)) is not None]
    if found and min(found)[0] < max(found)[0] * (1 - CLOCK_TOLERANCE):
        (slow, slowest), (fast, fastest) = min(found), max(found)
        yield f"{name}: from {slow:.0f} in {slowest} to {fast:.0f} in {fastest}"


def _slowest_mhz(name: str, record: Record) -> float | None:
    """The mean clock of the slowest device, which all others wait for; None where it was not sampled."""
    means = [(device.get(name) or {}).get("mean") for device in record.summary.get("devices") or []]
    return min((mean for mean in means if mean is not None), default=None)


def _sentence(key: str, found: Mapping[str, list[str]]) -> str:
    """The rarest values first, the most frequent one last, as what the others have."""
    *rare, (usual, others) = sorted(found.items(), key=lambda item: (len(item[1]), item[0]))
    parts = [f"{value} in {_named(runs)}" for value, runs in rare]
    return f"{key}: {', '.join(parts)}, {usual} in {'the others' if len(others) > 1 else others[0]}"


def _named(runs: list[str]) -> str:
    named = ", ".join(runs[:MOST_NAMED])
    return named if len(runs) <= MOST_NAMED else f"{named} and {len(runs) - MOST_NAMED} more"


def _shown(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "unknown" if value is None else value if isinstance(value, str) else json.dumps(value)
