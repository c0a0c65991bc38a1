"""A directory's telemetry as a page and a picture.

    python -m telemetry.page DIR      (telemetry.monitor does the same at its end)

writes telemetry.html, with a section a host, and telemetry.png or, of several hosts, one telemetry-<host>.png each.
"""

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from telemetry import panels
from telemetry.drawing import with_own_ids
from telemetry.series import THROTTLE_REASONS, Gpu, Host, Line, read_host, rows_of

GIB = 2**30
COLUMNS = (
    "device", "busy %", "SM active %", "tensor active %", "power W", "energy kJ", "memory GiB", "°C", "SM MHz",
    "idle s", "throttled s",
)  # fmt: skip


def write_pages(folder: Path) -> list[Path]:
    """Draw every telemetry-<host>.jsonl of a directory. Returns what was written.

    Raises FileNotFoundError if there is none, ValueError if one of them is no telemetry, OSError if a file cannot be
    written.
    """
    sources = sorted(path for path in folder.glob("telemetry-*.jsonl") if path.stat().st_size)
    if not sources:
        raise FileNotFoundError(f"{folder}: found no telemetry-<host>.jsonl with samples, expected one")
    hosts = {path: read_host(rows_of(path)) for path in sources}
    written = [folder / "telemetry.html"]
    written[0].write_text(html(list(hosts.values()), ending(folder)), encoding="utf-8")
    for path, host in hosts.items():
        written.append(folder / "telemetry.png" if len(hosts) == 1 else path.with_suffix(".png"))
        panels.write_png(host, written[-1])
    return written


def ending(folder: Path) -> list[tuple[str, str]]:
    """What ran and how it ended, of monitor.json, or of a training run's run.json and status.json."""
    if monitored := _read(folder / "monitor.json"):
        how = f"signal {monitored['signal']}" if monitored.get("signal") else monitored["exit_code"]
        words = monitored["command"]
        return [
            ("command", printable(shlex.join(words)) if words else "none: sampled until told to end"),
            ("exit code", "n/a" if how is None else str(how)),
            ("wall time", _number(monitored["wall_s"], "s", digits=1)),
        ]
    segments, status = _read(folder / "run.json").get("segments", []), _read(folder / "status.json")
    command = segments[-1].get("command") if segments else None
    return [
        ("command", printable(command) if command else "n/a"),
        ("state", f"{status['state']} at step {status['step']}" if status else "n/a"),
    ]


def printable(text: str) -> str:
    """On one line; what no reader could see is escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def html(hosts: list[Host], facts: list[tuple[str, str]]) -> str:
    """The page: nothing in it is fetched from anywhere."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [
        {
            "name": host.starts[0]["host"],
            "facts": sampling_facts(host),
            "why_no_gpus": why_no_gpus(host),
            "svgs": [Markup(svg) for svg in _svgs(host, f"h{index}")],  # matplotlib escapes its texts
            "rows": [gpu_row(gpu) for gpu in host.gpus],
            "host_row": host_row(host),
        }
        for index, host in enumerate(hosts)
    ]
    return environment.get_template("page.html.jinja").render(
        facts=facts, sections=sections, columns=COLUMNS, css_colors=panels.CSS_COLORS
    )


def sampling_facts(host: Host) -> list[tuple[str, str]]:
    """How the sampling went, summed over the sessions of a run that was resumed."""
    first, ends = host.starts[0], [end for end in host.ends if end is not None]
    whole = len(ends) == len(host.ends)
    cpu_time_s = sum(end["cpu_time_s"] for end in ends)
    shares = [end["on_time_percent"] for end in ends if end["on_time_percent"] is not None]
    sampled_s = sum(
        end["t_monotonic_s"] - start["t_monotonic_s"]
        for start, end in zip(host.starts, host.ends, strict=True)
        if end is not None
    )
    facts = [
        ("driver", first["driver"] or "n/a"),
        ("devices", ", ".join(dict.fromkeys(gpu.name for gpu in host.gpus)) or "no GPU"),
        ("CPU cores", str(first["cpu_cores"])),
        ("memory", f"{first['memory_total_bytes'] / GIB:.0f} GiB"),
        ("interval", f"{first['interval_s']:g} s"),
        ("host samples", f"{len(host.line.time_s)}, from 0 to {host.duration_s:.1f} s"),
        ("on time", f"{min(shares):.1f} % of the samples" if shares else "n/a"),
        (
            "sampler's CPU time",
            f"{cpu_time_s:.2f} s, {cpu_time_s / sampled_s:.2%} of a core" if sampled_s else "n/a",
        ),
    ]
    if len(host.starts) > 1:
        facts.append(("sessions", f"{len(host.starts)}: the run was resumed"))
    if not whole:
        facts.append(
            ("ended early", f"{len(host.ends) - len(ends)} of {len(host.ends)} sessions have no end")
        )
    return facts


def why_no_gpus(host: Host) -> str | None:
    """None where there are GPUs."""
    return None if host.gpus else (host.starts[-1]["nvml"] or "NVML knows of no GPU")


def gpu_row(gpu: Gpu) -> dict[str, str]:
    """A cell a column of COLUMNS."""
    line, energy_j = gpu.line, gpu.energy_j()
    notes = [gpu.name]
    if gpu.visible is False:
        notes.append("not visible to the command")
    if gpu.lost is not None:
        notes.append(f"lost at {gpu.lost[0]:.0f} s: {gpu.lost[1]}")
    has_idle = line.known("utilization_percent") or line.known("clocks_event_reasons")
    cells = (
        f"{gpu.label} ({'; '.join(notes)})",
        _mean_peak(line, "utilization_percent"),
        _mean_peak(line, "sm_active_percent"),
        _mean_peak(line, "tensor_active_percent"),
        _mean_peak(line, "power_mw", 1000) + _of(gpu.power_limit_mw, 1000),
        _number(None if energy_j is None else energy_j / 1000, "", digits=1),
        _mean_peak(line, "memory_used_bytes", GIB, 1) + _of(gpu.memory_total_bytes, GIB),
        _mean_peak(line, "temperature_c"),
        _mean_peak(line, "sm_clock_mhz"),
        f"{line.seconds(gpu.idle()):.0f}" if has_idle else "n/a",
        _throttled(gpu),
    )
    return dict(zip(COLUMNS, cells, strict=True))


def host_row(host: Host) -> list[tuple[str, str]]:
    """(name, mean / peak) of the host's counters."""
    line = host.line
    return [
        ("CPU % of all cores", _mean_peak(line, "cpu_percent")),
        ("memory GiB", _mean_peak(line, "memory_used_bytes", GIB, 1)),
        ("network in MiB/s", _mean_peak(line, "network_rx_kib_s", 1024, 2)),
        ("network out MiB/s", _mean_peak(line, "network_tx_kib_s", 1024, 2)),
    ]


def _throttled(gpu: Gpu) -> str:
    if not gpu.line.known("clocks_event_reasons"):
        return "n/a"
    seconds = {name: gpu.line.seconds(gpu.has_reason(bit)) for bit, name in THROTTLE_REASONS.items()}
    return ", ".join(f"{name} {time_s:.0f}" for name, time_s in seconds.items() if time_s > 0) or "0"


def _mean_peak(line: Line, counter: str, divisor: float = 1, digits: int = 0) -> str:
    mean, peak = line.mean(counter), line.peak(counter)
    if mean is None or peak is None:
        return "n/a"
    return f"{mean / divisor:.{digits}f} / {peak / divisor:.{digits}f}"


def _of(total: float | None, divisor: float) -> str:
    return "" if total is None else f" of {total / divisor:.0f}"


def _number(value: float | None, unit: str, digits: int = 0) -> str:
    return "n/a" if value is None else f"{value:.{digits}f} {unit}".strip()


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}


def _svgs(host: Host, prefix: str) -> Iterator[str]:
    for index, svg in enumerate(panels.svgs(host)):
        yield with_own_ids(svg, f"{prefix}-{index}")


def main(arguments: list[str]) -> int:
    """Exit code 2 where there is nothing to draw."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(
            "usage: python -m telemetry.page DIR      draws the telemetry-<host>.jsonl in DIR",
            file=sys.stderr,
        )
        return 0 if arguments in (["--help"], ["-h"]) else 2
    try:
        written = write_pages(Path(arguments[0]))
    except (ValueError, OSError) as error:
        print(f"trimaran: {error}", file=sys.stderr)
        return 2
    print(f"trimaran: wrote {', '.join(map(str, written))}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
