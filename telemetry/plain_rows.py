"""What a sampler's first and last row may say, whoever wrote them: numbers, words, and None for all else."""

from collections.abc import Mapping
from typing import Any

LARGEST = 1e18
"""No time, count, size or power that we read comes near; beyond it products overflow."""
LONGEST_S = 1e9
"""Of a step or an interval: 30 years."""
_NUMBERS = ("t_monotonic_s", "interval_s", "host_interval_s", "cpu_cores", "memory_total_bytes")
_WORDS = ("host", "boot_id", "driver", "nvml")
_END = ("samples", "on_time_percent", "cpu_time_s")


def finite(value: object) -> int | float | None:
    """The value if it is a number of a size that can be computed with; true and false are none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) < LARGEST else None  # type: ignore[arg-type, return-value]  # is_number


def whole(value: object) -> int | None:
    """The value if it is such a number, and an integer."""
    found = finite(value)
    return found if isinstance(found, int) else None


def positive_s(value: object) -> float | None:
    """The value if it is a number of seconds above 0."""
    found = finite(value)
    return found if found is not None and 0 < found < LONGEST_S else None


def word(value: object) -> str | None:
    """The value if it is a string, as it can be shown on a line."""
    return printable(value) if isinstance(value, str) else None


def printable(text: str) -> str:
    """As it can be shown on a line of a terminal, whatever it is made of."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def start_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A sampler's first row."""
    devices = row.get("devices")
    return {
        **{name: finite(row.get(name)) for name in _NUMBERS},
        **{name: word(row.get(name)) for name in _WORDS},
        "devices": [_device(one) for one in devices if isinstance(one, Mapping)]
        if isinstance(devices, list)
        else [],
    }


def end_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A sampler's last row."""
    return {name: finite(row.get(name)) for name in _END}


def _device(row: Mapping[str, Any]) -> dict[str, Any]:
    numbers = ("device", "memory_total_bytes", "power_limit_mw")
    visible = row.get("visible")
    return {
        **{name: finite(row.get(name)) for name in numbers},
        **{name: word(row.get(name)) for name in ("uuid", "name", "parent_uuid")},
        "visible": visible if isinstance(visible, bool) else None,
    }
