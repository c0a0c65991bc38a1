"""How figures read in a report: a value with its interval, in a unit that fits; unknown is "n/a", never 0."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

UNKNOWN = "n/a"
STRATEGIES = ("torch-single", "torch-ddp", "torch-horovod", "tf-single", "tf-mirrored", "tf-horovod")
PARTS = {
    "data": "waiting for data",
    "compute": "compute",
    "stragglers": "waiting for the slowest worker",
    "exchange": "exposed communication",
    "rest": "rest",
}
"""The parts of a step (scaling/decompose.py), in a reader's words."""
LOSSES = {**PARTS, "compute": "slower compute than on one device", "rest": "what the parts do not explain"}
"""What each part costs against a step of the base."""

Estimate = Mapping[str, Any] | None
"""{"value", "low", "high", "repetitions"} of analysis.json, None where it is unknown."""


def percent(found: Estimate, digits: int = 1) -> str:
    """A part of 1 with its interval: `95.1 % [94.0, 96.2]`."""
    if found is None:
        return UNKNOWN
    value, low, high = found["value"], found["low"], found["high"]
    interval = "" if low is None else f" [{low * 100:.{digits}f}, {high * 100:.{digits}f}]"
    return f"{value * 100:.{digits}f} %{interval}"


def number(found: Estimate, scale: float = 1.0, unit: str = "") -> str:
    """A value with its interval, `scale` times as large, to as many places as its size asks for."""
    if found is None:
        return UNKNOWN
    value, low, high = found["value"] * scale, found["low"], found["high"]
    places = decimals(value)
    interval = "" if low is None else f" [{low * scale:,.{places}f}, {high * scale:,.{places}f}]"
    return f"{value:,.{places}f}{' ' if unit else ''}{unit}{interval}"


def milliseconds(found: Estimate) -> str:
    """Seconds as `12.3 ms [12.1, 12.5]`."""
    return number(found, 1e3, "ms")


def plain(value: float | None, unit: str = "", scale: float = 1.0) -> str:
    """A value without an interval."""
    if value is None:
        return UNKNOWN
    value *= scale
    return f"{value:,.{decimals(value)}f}{' ' if unit else ''}{unit}"


def mebibytes(value: float | None) -> str:
    """Bytes as MiB, or GiB from ten of them on."""
    if value is None:
        return UNKNOWN
    return f"{value / 2**30:.1f} GiB" if value >= 10 * 2**30 else f"{value / 2**20:,.0f} MiB"


def decimals(value: float) -> int:
    """So many that three digits are told."""
    return 2 if value == 0 else min(max(2 - math.floor(math.log10(abs(value))), 0), 6)


def listed(words: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def recipe_name(recipe: str) -> str:
    """A recipe may be given as a path."""
    return Path(recipe).stem


def slug(*words: str) -> str:
    """The words as an id of a page and part of a file name."""
    return re.sub(r"[^\w.]+", "-", "-".join(words))


def size(case: Mapping[str, Any]) -> str:
    """`8 workers on 2 nodes`."""
    workers, nodes = case["workers"], case["nodes"]
    return f"{workers} worker{'s' * (workers > 1)}" + (f" on {nodes} nodes" if nodes > 1 else "")


def plural(count: int, word: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count} {word}{'s' * (count != 1)}"
