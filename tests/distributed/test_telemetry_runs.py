"""Real runs beside the fake NVML of tests/telemetry: whatever happens to it, the training is the same."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from telemetry.run_log import read_rows
from telemetry.summary import write_summary
from tests.telemetry.fake_nvml import FakeNvml

ROOT = Path(__file__).parents[2]
RECIPE = Path(__file__).with_name("tiny-gpt.toml")
LONG = ("--set", "steps=1000", "run.log_every=50", "run.eval_every=-1")
HOST = os.uname().nodename


@pytest.fixture
def library(tmp_path: Path) -> FakeNvml:
    return FakeNvml(tmp_path)


def start(
    library: FakeNvml, run_dir: Path, *arguments: str, program: tuple[str, ...] = ()
) -> subprocess.Popen:
    script = ("-m", "distributed.torch_single", "--recipe", str(RECIPE), "--run-dir", str(run_dir), *LONG)
    return subprocess.Popen(
        [sys.executable, *(program or script), *arguments],
        env={**os.environ, **library.environment(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def losses(run_dir: Path) -> list[float]:
    return [row["loss"] for row in read_rows(run_dir / "metrics.jsonl")]


def samples(run_dir: Path, kind: str = "gpu") -> list[dict]:
    path = run_dir / f"telemetry-{HOST}.jsonl"
    return [row for row in read_rows(path) if row["kind"] == kind] if path.exists() else []


def wait_for_samples(process: subprocess.Popen, run_dir: Path, kind: str = "gpu") -> None:
    end = time.monotonic() + 90
    while not samples(run_dir, kind):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)


HAPPENS = {
    "without": (),
    "whole": ("count 2", "gpm on"),
    "lost": ("count 2", "lost 1"),
    "crashed": ("count 2", "crash"),
    "hanging": ("count 2", "hang 0"),
    "killed": ("count 2", "gpm on"),
    "version": ("init 18",),
}
"""To NVML in mid-run, by the name of the run; of another version it is from the start."""


def one_of_those_runs(folder: Path, name: str) -> tuple[FakeNvml, str]:
    """The library that it was started beside and what it printed; its run directory is `folder`/run."""
    folder.mkdir()
    library, run_dir = FakeNvml(folder), folder / "run"
    if name in ("without", "version"):
        library.control(*HAPPENS[name])
        interval_s = "0" if name == "without" else "0.1"
        return library, finish(start(library, run_dir, "--telemetry-interval-s", interval_s))
    library.control("count 2", "gpm on")
    process = start(library, run_dir, "--telemetry-interval-s", "0.1")
    wait_for_samples(process, run_dir)
    library.control(*HAPPENS[name])
    if name == "killed":
        children = psutil.Process(process.pid).children()
        next(p for p in children if "telemetry.sampler" in p.cmdline()).send_signal(signal.SIGKILL)
    return library, finish(process)


def test_whatever_happens_to_nvml_the_losses_are_the_same(tmp_path: Path) -> None:
    """At once or in mid-run: lost, crashed, hanging, of another version, or without a sampler."""
    with ThreadPoolExecutor(2) as pool:
        ended = pool.map(lambda name: one_of_those_runs(tmp_path / name, name), HAPPENS)
        libraries, outputs = zip(*ended, strict=True)
    runs = {name: tmp_path / name / "run" for name in HAPPENS}
    output = dict(zip(HAPPENS, outputs, strict=True))
    assert samples(runs["without"], "start") == []
    for name in output:
        assert losses(runs[name]) == losses(runs["without"]), name
        assert (runs[name] / "summary.json").exists() == (name != "without"), name
    assert "ended early with signal 6" in output["crashed"]
    assert "ended early with signal 9" in output["killed"]
    assert "did not answer" in output["hanging"]
    assert output["version"].count("NVML error 18") == 1
    lost = [row for row in samples(runs["lost"]) if row.get("lost")]
    assert [row["device"] for row in lost] == [1]
    others = [row for row in samples(runs["lost"]) if row["device"] == 0]
    assert others[-1]["t_monotonic_s"] > lost[0]["t_monotonic_s"]
    assert others[-1]["utilization_percent"] is not None
    assert json.loads((runs["whole"] / "summary.json").read_text())["devices"] == []  # it trained on the CPU
    assert [library.forbidden_calls() for library in libraries] == [[]] * len(HAPPENS)


def test_a_run_that_said_that_it_was_on_gpus_has_their_figures(library: FakeNvml, tmp_path: Path) -> None:
    library.control("count 2", "gpm on")
    finish(start(library, tmp_path / "run", "--telemetry-interval-s", "0.1"))
    run_json = json.loads((tmp_path / "run" / "run.json").read_text())
    run_json["segments"][0]["settings"]["device"] = "cuda"
    (tmp_path / "run" / "run.json").write_text(json.dumps(run_json))
    told = write_summary(tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [device["device"] for device in summary["devices"]] == [0, 1]
    assert summary["devices_known_by"] == "visible"
    assert summary["energy_per_token_j"] > 0
    assert summary["devices"][0]["tensor_active_percent"]["mean"] > 0
    assert "tensor cores" in told[0]


def test_the_monitor_around_a_training_writes_files_and_pictures(library: FakeNvml, tmp_path: Path) -> None:
    library.control("count 2", "gpm on")
    script = (
        "-m",
        "distributed.torch_single",
        "--recipe",
        str(RECIPE),
        "--run-dir",
        str(tmp_path / "run"),
        *LONG,
    )
    out = tmp_path / "seen"
    monitor = ("-m", "telemetry.monitor", "--out", str(out), "--interval", "0.1", "--", sys.executable)
    output = finish(start(library, out, *script, program=monitor))
    assert "step 1000/1000" in output
    assert samples(out)[-1]["power_mw"] > 0
    assert samples(out, "end")
    assert (out / "telemetry.png").read_bytes().startswith(b"\x89PNG")
    assert "torch_single" in (out / "telemetry.html").read_text()
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "completed"
