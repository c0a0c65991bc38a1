"""A run's telemetry in a few lines, for the end of its output. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

MOST_GPUS, MOST_HOSTS = 8, 4
"""More than this many are one line together."""
GIB = 2**30
FULL_COVERAGE = 0.95
Entry = Mapping[str, Any]


def lines(summary: Entry) -> list[str]:
    """At most MOST_GPUS + MOST_HOSTS + 1 lines for the content of summary.json; none where there are no samples."""
    devices, hosts = summary["devices"], summary["hosts"]
    told = [_gpus(devices)] if len(devices) > MOST_GPUS else [_gpu(device) for device in devices]
    told += _energy(summary)
    told += [_hosts(hosts)] if len(hosts) > MOST_HOSTS else [_host(host) for host in hosts]
    return [f"telemetry: {line}" for line in told]


def _gpu(device: Entry) -> str:
    parts = [
        f"{_number(_mean(device, 'utilization_percent'), '%')} busy "
        f"(peak {_number(_peak(device, 'utilization_percent'), '%')})"
    ]
    if (tensor := _mean(device, "tensor_active_percent")) is not None:
        parts.append(f"tensor cores {tensor:.0f}%")
    parts.append(_number(_peak(device, "memory_used_bytes"), " GiB", GIB, 1))
    parts.append(_number(_mean(device, "power_mw"), " W", 1e3))
    parts += _throttled(device) + _reservations(device)
    if device["lost"]:
        parts.append(f"lost ({device['lost']})")
    return f"{_name(device)} {device['name'] or ''}".rstrip() + ": " + ", ".join(parts)


def _gpus(devices: Sequence[Entry]) -> str:
    """All in one line: ranges, and which is worst."""
    names = sorted({device["name"] for device in devices if device["name"]})
    parts = [_range(devices, "utilization_percent", "%") + " busy"]
    if known := [one for one in devices if _mean(one, "utilization_percent") is not None]:
        parts[0] += f" (least {_name(min(known, key=lambda one: _mean(one, 'utilization_percent') or 0.0))})"
    if any(_mean(one, "tensor_active_percent") is not None for one in devices):
        parts.append("tensor cores " + _range(devices, "tensor_active_percent", "%"))
    memory = [peak for one in devices if (peak := _peak(one, "memory_used_bytes")) is not None]
    parts.append("up to " + _number(max(memory, default=None), " GiB", GIB, 1))
    parts.append(_range(devices, "power_mw", " W", 1e3))
    worst = max(devices, key=lambda one: one["throttled_s"] or 0.0)
    if worst["throttled_s"]:
        parts.append(", ".join(_throttled(worst)) + f" at most, {_name(worst)}")
    thin = min(
        (one for one in devices if one["coverage"] is not None), key=lambda one: one["coverage"], default=None
    )
    parts += _reservations(thin) if thin else []
    if lost := [_name(one) for one in devices if one["lost"]]:
        parts.append(f"lost: {', '.join(lost[:3])}" + (f" and {len(lost) - 3} more" if len(lost) > 3 else ""))
    return f"{len(devices)} GPUs {', '.join(names)}".rstrip() + ": " + ", ".join(parts)


def _energy(summary: Entry) -> list[str]:
    per = {"sample": summary["energy_per_sample_j"], "token": summary["energy_per_token_j"]}
    parts = [f"{joules:.3g} J a {what}" for what, joules in per.items() if joules is not None]
    if not parts:
        return []
    line = ", ".join(parts)
    if summary["energy_windows_share"] < 1:
        line += f", known for {100 * summary['energy_windows_share']:.0f}% of the windows"
    if summary["devices_known_by"] == "all":
        line += "; of all GPUs, as it is not known which were used"
    return [line]


def _host(host: Entry) -> str:
    cpu = _number(_mean(host, "cpu_percent"), "%")
    parts = [
        f"CPU {cpu} (peak {_number(_peak(host, 'cpu_percent'), '%')})",
        f"{_number(_peak(host, 'memory_used_bytes'), ' GiB', GIB, 1)} used",
    ]
    if host["data_time_share"] is not None:
        parts.append(f"waiting for data {100 * host['data_time_share']:.0f}% of the time")
    parts += _reservations(host)
    line = f"{host['host']} " + ", ".join(parts)
    return line + (f"; no GPU counters: {host['nvml']}" if host["nvml"] else "")


def _hosts(hosts: Sequence[Entry]) -> str:
    parts = ["CPU " + _range(hosts, "cpu_percent", "%")]
    memory = [peak for host in hosts if (peak := _peak(host, "memory_used_bytes")) is not None]
    parts.append("up to " + _number(max(memory, default=None), " GiB", GIB, 1) + " used")
    waiting = [host for host in hosts if host["data_time_share"] is not None]
    if waiting:
        worst = max(waiting, key=lambda host: host["data_time_share"])
        share = 100 * worst["data_time_share"]
        parts.append(f"waiting for data up to {share:.0f}% of the time ({worst['host']})")
    line = f"{len(hosts)} hosts: " + ", ".join(parts)
    without = [host for host in hosts if host["nvml"]]
    return line + (f"; no GPU counters on {len(without)}: {without[0]['nvml']}" if without else "")


def _throttled(device: Entry) -> list[str]:
    if device["throttled_s"] is None:
        return []
    reasons = sorted(
        (name for name, seconds in device["throttled_s_by_reason"].items() if seconds),
        key=lambda name: -device["throttled_s_by_reason"][name],
    )
    return [f"throttled {device['throttled_s']:.1f} s ({', '.join(reasons)})"] if reasons else []


def _reservations(entry: Entry) -> list[str]:
    coverage = entry["coverage"]
    if coverage is None or coverage >= FULL_COVERAGE:
        return []
    return [f"samples for {100 * coverage:.0f}% of the time"]


def _name(device: Entry) -> str:
    return f"{device['host']} GPU {device['device']}"


def _range(entries: Sequence[Entry], gauge: str, unit: str, divisor: float = 1.0) -> str:
    means = [mean / divisor for entry in entries if (mean := _mean(entry, gauge)) is not None]
    if not means:
        return f"n/a{unit if unit != '%' else ''}"
    low, high = f"{min(means):.0f}", f"{max(means):.0f}"
    return f"{low}{unit}" if low == high else f"{low}-{high}{unit}"


def _mean(entry: Entry, gauge: str) -> float | None:
    return (entry.get(gauge) or {}).get("mean")


def _peak(entry: Entry, gauge: str) -> float | None:
    return (entry.get(gauge) or {}).get("peak")


def _number(value: float | None, unit: str, divisor: float = 1.0, digits: int = 0) -> str:
    return f"n/a{unit if unit != '%' else ''}" if value is None else f"{value / divisor:.{digits}f}{unit}"
