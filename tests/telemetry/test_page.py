import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from telemetry import page, panels
from telemetry.page import ending, gpu_row, printable, sampling_facts, write_pages
from telemetry.run_log import write_json, write_status
from telemetry.series import read_host
from tests.telemetry.telemetry_rows import end, gpu, host, run, start, write

TITLES = [
    "GPU state", "GPU busy, %", "SM active, %", "Tensor cores active, %", "Power, W",
    "GPU memory, GiB", "SM clock, MHz", "Memory clock, MHz", "Temperature, °C", "Host CPU, % of all cores",
    "Host memory, GiB", "Network, MiB/s",
]  # fmt: skip
NASTY = ["python", "-c", "<script>alert(1)</script> & \"'\x1b[31m\udcff $x_1$ é"]


def parsed(folder: Path) -> ElementTree.Element:
    """The page as strict XML, which asks for more than browsers do."""
    doctype, _, text = (folder / "telemetry.html").read_text(encoding="utf-8").partition("\n")
    assert doctype == "<!DOCTYPE html>"
    return ElementTree.fromstring(text)


def monitored(folder: Path, **changes: object) -> None:
    facts = {"command": NASTY, "exit_code": 3, "signal": None, "wall_s": 120.0} | changes
    write_json(folder / "monitor.json", facts)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the page of a run on two GPUs."""
    folder = tmp_path_factory.mktemp("two")
    write(folder / "telemetry-node1.jsonl", run(2, 60, gap=(50, 60)))
    monitored(folder)
    assert write_pages(folder) == [folder / "telemetry.html", folder / "telemetry.png"]
    return folder


def test_the_page_stands_alone_and_has_every_panel(drawn: Path) -> None:
    root, text = parsed(drawn), (drawn / "telemetry.html").read_text()
    addresses = set(re.findall(r'[\w:]+\s*=\s*"[^"]*//[^"]*"', text))
    assert {address.partition("=")[0] for address in addresses} <= {"xmlns", "xmlns:xlink"}
    assert not re.search(r"@import|url\((?!#)|<script|<link|<img|<iframe", text)
    drawings = root.findall(".//{http://www.w3.org/2000/svg}svg")
    assert [drawing.get("aria-label") for drawing in drawings] == TITLES
    for drawing in drawings:
        assert drawing.get("width") is None  # as wide as the screen
        assert len("".join(drawing.itertext()).split()) > 10
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)) > 100
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', text)) <= set(ids)


def test_the_page_follows_the_readers_colours(drawn: Path) -> None:
    text = (drawn / "telemetry.html").read_text()
    light, dark = text.split("@media (prefers-color-scheme: dark)")[:2]
    drawings = dark.partition("</style>")[2]
    assert "currentColor" in drawings
    assert "#010203" not in drawings
    used = set(re.findall(r"var\((--[0-9a-f]{6})\)", drawings))
    assert used == {f"--{color[1:]}" for color in panels.CSS_COLORS}
    assert all(f"{name}: #" in light and f"{name}: #" in dark for name in used)


def test_a_command_line_may_hold_anything(tmp_path: Path) -> None:
    write(tmp_path / "telemetry-node1.jsonl", run(0, 5))
    monitored(tmp_path)
    write_pages(tmp_path)
    assert "<script>" not in (tmp_path / "telemetry.html").read_text()
    facts = ["".join(item.itertext()) for item in parsed(tmp_path).iter("dd")]
    assert facts[0] == printable(shlex.join(NASTY))
    assert r"\x1b[31m\udcff $x_1$ é" in facts[0]
    assert facts[1] == "3"


def test_without_gpus_the_page_says_why(tmp_path: Path) -> None:
    write(tmp_path / "telemetry-node1.jsonl", run(0, 5))
    write_pages(tmp_path)
    text = (tmp_path / "telemetry.html").read_text()
    assert "No GPU counters: libnvidia-ml.so.1 not found." in text
    assert [label for label in TITLES if f'aria-label="{label}"' in text] == TITLES[-3:]


def test_a_row_of_the_table() -> None:
    two = read_host(run(2, 120))
    cells = gpu_row(two.gpus[0])
    assert cells["device"] == "GPU 0 (NVIDIA H100 80GB HBM3)"
    assert cells["memory GiB"] == "51.4 / 61.0 of 80"
    assert cells["power W"].endswith(" of 700")
    rows = [row for row in run(2, 120) if row["kind"] == "gpu" and row["device"] == 0]
    assert cells["energy kJ"] == f"{(rows[-1]['energy_mj'] - rows[0]['energy_mj']) / 1e6:.1f}"
    assert cells["idle s"] == "20"
    assert cells["throttled s"] == "hw_thermal_slowdown 11, hw_slowdown 11, sw_power_cap 11"
    assert gpu_row(two.gpus[1])["throttled s"] == "sw_power_cap 11"


def test_unknown_is_not_available_and_never_0() -> None:
    device = start()["devices"][0] | {"memory_total_bytes": None, "power_limit_mw": None, "visible": False}
    found = read_host([start(devices=[device]), gpu(0), gpu(1), gpu(2, lost="GPU is lost")])
    first, *others = gpu_row(found.gpus[0]).values()
    assert first == "GPU 0 (NVIDIA H100 80GB HBM3; not visible to the command; lost at 2 s: GPU is lost)"
    assert set(others) == {"n/a"}


def test_the_facts_of_sampling() -> None:
    facts = dict(sampling_facts(read_host([start(), host(0, None), host(1), end(2, 2)])))
    assert facts["driver"] == "570.1"
    assert facts["on time"] == "100.0 % of the samples"
    assert facts["sampler's CPU time"] == "0.50 s, 25.00% of a core"
    assert "ended early" not in facts
    killed = dict(sampling_facts(read_host([start(), host(0, None), start(time_s=9), host(9, None)])))
    assert killed["sampler's CPU time"] == killed["on time"] == "n/a"
    assert killed["sessions"] == "2: the run was resumed"
    assert killed["ended early"] == "2 of 2 sessions have no end"


def test_how_it_ended(tmp_path: Path) -> None:
    assert ending(tmp_path) == [("command", "n/a"), ("state", "n/a")]
    write_json(
        tmp_path / "run.json", {"segments": [{"command": "old"}, {"command": "python -m x --run-dir 'a b'"}]}
    )
    write_status(tmp_path, "preempted", 40)
    assert ending(tmp_path) == [("command", "python -m x --run-dir 'a b'"), ("state", "preempted at step 40")]
    monitored(tmp_path, exit_code=None, signal="SIGKILL", command=[])
    assert ending(tmp_path)[:2] == [
        ("command", "none: sampled until told to end"), ("exit code", "signal SIGKILL"),
    ]  # fmt: skip
    monitored(tmp_path, exit_code=None, wall_s=None)
    assert ending(tmp_path)[1:] == [("exit code", "n/a"), ("wall time", "n/a")]


def test_a_run_on_several_hosts_has_a_section_and_a_picture_each(tmp_path: Path) -> None:
    for name in ("a", "b"):
        rows = run(0, 5)
        write(tmp_path / f"telemetry-{name}.jsonl", [rows[0] | {"host": name}, *rows[1:]])
    command = [sys.executable, "-m", "telemetry.page", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["telemetry-a.png", "telemetry-b.png"]
    assert [heading.text for heading in parsed(tmp_path).iter("h2")] == ["a", "b"]
    ids = re.findall(r'\bid="([^"]+)"', (tmp_path / "telemetry.html").read_text())
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "found no telemetry-<host>.jsonl with samples, expected one"),
        ('{"kind": "host"}\n', "found a row 'host', expected a start row before it"),
        ("{damaged\n{}\n", "line 1 is no JSON object"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, line: str
) -> None:
    if content is not None:
        (tmp_path / "telemetry-a.jsonl").write_text(content)
    assert page.main([str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert line in errors
    assert errors.count("\n") == 1
