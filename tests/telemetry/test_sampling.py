"""Real sampler processes, on a machine without NVML or beside the fake library of tests/telemetry/fake_nvml.py."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from telemetry import sampling
from telemetry.run_log import read_rows

ROOT = Path(__file__).parents[2]


def wait_until(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def rows_of(path: Path, kind: str) -> list[dict]:
    return [row for row in read_rows(path) if row["kind"] == kind] if path.exists() else []


def test_samples_come_on_a_fixed_grid_and_the_end_is_one_more(tmp_path: Path) -> None:
    running = sampling.start(tmp_path, 0.25)
    wait_until(lambda: rows_of(running.path, "start"))
    time.sleep(1.6)
    assert running.close() is None
    assert running.close() is None
    start, *rest = read_rows(running.path)
    assert (start["kind"], rest[-1]["kind"]) == ("start", "end")
    assert (start["interval_s"], start["host_interval_s"]) == (0.25, 1.0)
    assert rest[-1]["samples"] >= 7
    assert 0 <= rest[-1]["on_time_percent"] <= 100
    assert rest[-1]["cpu_time_s"] > 0
    hosts = rows_of(running.path, "host")
    assert len(hosts) == 3  # at once, after a second, at the end
    assert hosts[-1]["t_monotonic_s"] - hosts[0]["t_monotonic_s"] >= 1.5
    assert all(row["memory_used_bytes"] > 0 for row in hosts)


def test_without_nvml_the_reason_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    running = sampling.start(tmp_path, 1.0)
    wait_until(lambda: rows_of(running.path, "host"))
    assert running.close() is None
    (start,) = rows_of(running.path, "start")
    assert start["nvml"] == "libnvidia-ml.so.1 not found"
    assert (start["devices"], start["driver"], rows_of(running.path, "gpu")) == ([], None, [])


PARENT = """
import sys, time
from pathlib import Path
from telemetry import sampling
running = sampling.start(Path(sys.argv[1]), 0.1)
print(running.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_outlives_the_program_by_one_sample_only(tmp_path: Path, number: int) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with parent:
        try:
            sampler = psutil.Process(int(parent.stdout.readline()))
            (path,) = [tmp_path / f"telemetry-{os.uname().nodename}.jsonl"]
            wait_until(lambda: rows_of(path, "host"))
            for word in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
                sampler.send_signal(word)  # Slurm's warnings reach every process of a step
            time.sleep(0.3)
            assert sampler.status() != psutil.STATUS_ZOMBIE
            parent.send_signal(number)
            parent.wait(10)
            ended = time.time()
        finally:
            parent.kill()
    wait_until(lambda: not sampler.is_running())
    last = read_rows(path)[-1]
    assert last["kind"] == "end"
    assert last["t_unix_s"] >= ended - 0.5


def test_a_killed_sampler_is_told_and_the_next_goes_on_after_its_last_whole_line(tmp_path: Path) -> None:
    first = sampling.start(tmp_path, 0.1)
    wait_until(lambda: rows_of(first.path, "host"))
    os.kill(first.pid, signal.SIGKILL)
    assert first.close() == "the sampler ended early with signal 9"
    with open(first.path, "a") as file:
        file.write('{"kind": "ho')
    second = sampling.start(tmp_path, 0.1)
    wait_until(lambda: len(rows_of(first.path, "start")) == 2)
    assert second.close() is None
    kinds = [json.loads(line)["kind"] for line in first.path.read_text().splitlines()]
    assert kinds.count("start") == 2
    assert kinds[-1] == "end"


def test_one_host_and_folder_has_one_sampler(tmp_path: Path) -> None:
    first = sampling.start(tmp_path, 0.1)
    wait_until(lambda: rows_of(first.path, "host"))
    second = sampling.start(tmp_path, 0.1)
    wait_until(lambda: psutil.Process(second.pid).status() == psutil.STATUS_ZOMBIE)
    assert second.close() is None
    assert first.close() is None
    assert len(rows_of(first.path, "start")) == 1


def test_what_cannot_start_or_write_is_a_line_and_no_error(tmp_path: Path, monkeypatch) -> None:
    assert "exit code 1" in (sampling.start(tmp_path / "missing", 1.0).close() or "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert (sampling.start(tmp_path, 1.0).close() or "").startswith("no telemetry: ")
