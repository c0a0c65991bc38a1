import io
import json
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from telemetry.live import Latest, LiveTable, Tail, table
from tests.telemetry.telemetry_rows import gpu, host, start


def shown(*rows: dict[str, Any], width: int = 120) -> str:
    latest = Latest()
    latest.update(rows)
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(table(latest))
    return console.export_text()


def test_only_new_and_whole_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    tail = Tail(path)
    assert tail.rows() == []
    first, second = (json.dumps({"kind": kind}).encode() + b"\n" for kind in ("start", "host"))
    path.write_bytes(first + second[:7])
    assert tail.rows() == [{"kind": "start"}]
    with open(path, "ab") as file:
        file.write(second[7:] + b"{damaged\n" + first[:1])
    assert tail.rows() == [{"kind": "host"}]
    assert tail.rows() == []


def test_the_table_has_the_newest_row_of_each_gpu_and_of_the_host() -> None:
    values = {"memory_used_bytes": 61 * 2**30, "power_mw": 650_400, "temperature_c": 66, "sm_clock_mhz": 1980}
    text = shown(
        start(2),
        host(0, None),
        gpu(0, 0, utilization_percent=1),
        gpu(
            1, 0, utilization_percent=97, tensor_active_percent=44.6, clocks_event_reasons=0x4 | 0x2, **values
        ),
        gpu(1, 1, utilization_percent=0, clocks_event_reasons=0x1),
        host(1),
    )
    header, first, second, below = [re.split(r" {2,}", line.strip()) for line in text.splitlines()]
    assert header == ["GPU", "busy", "tensor", "memory GiB", "power W", "°C", "SM MHz", "clocks held by"]
    name = "NVIDIA H100 80GB HBM3"
    assert first == [f"0 {name}", "97%", "45%", "61.0/80", "650/700", "66", "1980", "sw_power_cap"]
    assert second == [f"1 {name}", "0%", "n/a", "n/a/80", "n/a/700", "n/a", "n/a", "idle"]
    assert below[:3] == ["node1", "CPU 50% of 8 cores", "memory 8.0/64 GiB"]
    assert below[3:] == ["network in 2.0 out 2.0 MiB/s", "2 samples"]


def test_a_tensor_column_needs_a_counter_and_a_lost_gpu_says_so() -> None:
    text = shown(start(1), host(0, None), gpu(0, 0, lost="GPU is lost"))
    assert "tensor" not in text
    assert "GPU is lost" in text
    assert "CPU n/a" in text


def test_without_gpus_the_reason_is_shown() -> None:
    lines = shown(start(0), host(1)).splitlines()
    assert lines[0].strip() == "no GPU counters: libnvidia-ml.so.1 not found"
    assert lines[1].startswith("node1  CPU 50%")


def test_a_narrow_terminal_loses_no_number() -> None:
    text = shown(start(1), gpu(0, power_mw=650_000, sm_clock_mhz=1980, clocks_event_reasons=0x20), width=80)
    for word in ("650/700", "1980", "sw_thermal_slowdown"):
        assert word in text


def test_a_name_is_no_markup() -> None:
    devices = [start()["devices"][0] | {"name": "[red]x[/red]"}]
    assert "0 [red]x[/red]" in shown(start(devices=devices))


def test_drawn_at_most_twice_a_second_and_gone_when_closed(monkeypatch: Any) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("telemetry.live.time.monotonic", lambda: now_s)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream, latest, now_s = Terminal(), Latest(), 100.0
    live = LiveTable(stream)
    live.show(latest)
    assert "CPU" not in stream.getvalue()  # no start row yet
    latest.update([start(0), host(0)])
    for now_s in (100.0, 100.4, 100.6):  # noqa: B007 (what the clock says)
        live.show(latest)
    live.close()
    assert stream.getvalue().count("node1  CPU") == 2 + 1  # and once more by rich, as it ends
    assert stream.getvalue().endswith("\x1b[2K")
