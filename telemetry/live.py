"""The newest samples as a table on a terminal, from the file that the sampler writes."""

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from telemetry.run_log import parse_row
from telemetry.series import GPU_IDLE, THROTTLE_REASONS

if TYPE_CHECKING:
    from rich.console import RenderableType

REFRESH_S = 0.5
GIB = 2**30


class Tail:
    """Reads what was added to a .jsonl file since the last call. A line being written waits until it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""

    def rows(self) -> list[dict[str, Any]]:
        """The new rows; none as long as there is no such file. A line that was cut short is left out."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return []
        self._offset += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        return [row for line in lines if (row := parse_row(line)) is not None]


class Latest:
    """The start row, and the newest row of each GPU (by UUID) and of the host."""

    def __init__(self) -> None:
        self.start: Mapping[str, Any] | None = None
        self.gpus: dict[str, Mapping[str, Any]] = {}
        self.host: Mapping[str, Any] = {}
        self.samples = 0

    def update(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            if row["kind"] == "start":
                self.start = row
            elif row["kind"] == "gpu":
                self.gpus[row["uuid"]] = row
            elif row["kind"] == "host":
                self.host = row
                self.samples += 1


class LiveTable:
    """The table at the bottom of a terminal, drawn when told to and at most every REFRESH_S; gone when closed."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._drawn_s = -REFRESH_S
        self._live = Live(
            console=Console(file=stream),
            auto_refresh=False,  # by no thread: the monitor has one, which hears the signals
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def show(self, latest: Latest) -> None:
        if latest.start is not None and time.monotonic() - self._drawn_s >= REFRESH_S:
            self._drawn_s = time.monotonic()
            self._live.update(table(latest), refresh=True)

    def close(self) -> None:
        self._live.stop()


def can_show(stream: TextIO) -> bool:
    """Whether a table can be drawn there."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def table(latest: Latest) -> "RenderableType":
    """A row a GPU and a line for the host; what is not known reads n/a."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    start = latest.start or {}
    if not start.get("devices"):
        return Group(Text(f"no GPU counters: {start.get('nvml') or 'no GPU found'}"), Text(_host(latest)))
    devices = start["devices"]
    with_tensor = any(row.get("tensor_active_percent") is not None for row in latest.gpus.values())
    gpus = Table(box=None, pad_edge=False, header_style="bold")
    for name in _cells({}, {}, with_tensor):
        is_text = name in ("GPU", "clocks held by")
        gpus.add_column(name, justify="left" if is_text else "right", no_wrap=name != "GPU")
    for device in devices:
        row = latest.gpus.get(device["uuid"], {})
        # Text, not str: a name is no markup.
        gpus.add_row(*(Text(cell) for cell in _cells(device, row, with_tensor).values()))
    return Group(gpus, Text(_host(latest)))


def _cells(device: Mapping[str, Any], row: Mapping[str, Any], with_tensor: bool) -> dict[str, str]:
    memory, power_mw = row.get("memory_used_bytes"), row.get("power_mw")
    cells = {
        "GPU": f"{device.get('device')} {device.get('name')}",
        "busy": _number(row.get("utilization_percent"), "%"),
        "tensor": _number(row.get("tensor_active_percent"), "%"),
        "memory GiB": f"{_number(memory, '', GIB, 1)}/{_number(device.get('memory_total_bytes'), '', GIB)}",
        "power W": f"{_number(power_mw, '', 1000)}/{_number(device.get('power_limit_mw'), '', 1000)}",
        "°C": _number(row.get("temperature_c"), ""),
        "SM MHz": _number(row.get("sm_clock_mhz"), ""),
        "clocks held by": row.get("lost") or _reasons(row.get("clocks_event_reasons")),
    }
    if not with_tensor:
        del cells["tensor"]
    return cells


def _reasons(mask: int | None) -> str:
    if mask is None:
        return "n/a"
    names = [name for bit, name in THROTTLE_REASONS.items() if mask & bit]
    return ", ".join(names) or ("idle" if mask & GPU_IDLE else "-")


def _host(latest: Latest) -> str:
    start, row = latest.start or {}, latest.host
    memory = _number(row.get("memory_used_bytes"), "", GIB, 1)
    return (
        f"{start.get('host')}  CPU {_number(row.get('cpu_percent'), '%')} of {start.get('cpu_cores')} cores  "
        f"memory {memory}/{_number(start.get('memory_total_bytes'), '', GIB)} GiB  "
        f"network in {_number(row.get('network_rx_kib_s'), '', 1024, 1)} "
        f"out {_number(row.get('network_tx_kib_s'), '', 1024, 1)} MiB/s  {latest.samples} samples"
    )


def _number(value: float | None, unit: str, divisor: float = 1, digits: int = 0) -> str:
    return "n/a" if value is None else f"{value / divisor:.{digits}f}{unit}"
