"""Real training processes with real loader processes, watched through /proc."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import data
from tests.ending import ends

# A strategy script in small: it imports frameworks in main() only, and its loader processes are born with the signals
# blocked that it hears in a thread of its own. They report on themselves.
SOURCE = """
import os, sys
import numpy as np

class Reporting:
    num_samples, resident, fingerprint = 64, False, ""

    def batch(self, ids, epochs):
        loaded = [name for name in ("torch", "tensorflow", "keras", "jax", "sklearn") if name in sys.modules]
        report = f"{os.getpid()} {','.join(loaded) or 'none'}"
        text = np.frombuffer(report.ljust(64).encode(), np.uint8).astype(np.int32)
        return {"inputs": np.tile(text, (len(ids), 1)), "targets": ids.astype(np.int32), "replaced": 0}

    def target_count(self, ids):
        return len(ids)
"""
SCRIPT = """
import signal, sys, time
from data.order import SampleOrder
from data.pipeline import train_batches
from reporting import Reporting

def main(ending):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
    if ending == "fall asleep":
        import torch
    source = Reporting()
    batches = train_batches(source, SampleOrder(64, 4, 0), rank=0, workers=1, accumulation=1, first_step=0,
                            num_steps=1000, loader_workers=2, prefetch_batches=2)
    for _ in range(4):
        print(bytes(next(batches)["inputs"][0, 0].astype("uint8")).decode(), flush=True)
    if ending == "fall asleep":
        time.sleep(600)
    elif ending == "wait for a line":
        sys.stdin.readline()
        for _ in range(20):
            next(batches)
        print("went on", flush=True)
    elif ending == "raise":
        raise RuntimeError("on purpose")
    elif ending == "close":
        batches.close()
        print("closed", flush=True)
        time.sleep(600)

if __name__ == "__main__":
    main(sys.argv[1])
"""


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return "State:\tZ" not in status  # a zombie has ended, though kill(pid, 0) finds it


def wait_until_ended(pids):
    assert [pid for pid in pids if not ends(pid)] == []


@pytest.fixture
def start(tmp_path):
    """Starts the script; gives the process, its loader processes and what they had imported."""
    (tmp_path / "reporting.py").write_text(SOURCE)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = Path(data.__file__).parents[1]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(root), str(tmp_path)]),
        "OMP_NUM_THREADS": "1",
    }
    started = []

    def run(ending):
        process = subprocess.Popen(
            [sys.executable, str(script), ending],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        started.append(process)
        reports = [process.stdout.readline().split() for _ in range(4)]
        assert all(len(report) == 2 for report in reports), process.communicate(timeout=30)[1]
        return process, sorted({int(pid) for pid, _ in reports}), {loaded for _, loaded in reports}

    yield run
    for process in started:
        process.kill()
        process.communicate(timeout=30)


@pytest.mark.timeout(120)
def test_loader_processes_import_no_framework_and_die_when_their_parent_is_killed(start):
    process, loaders, loaded = start("fall asleep")
    assert len(loaders) == 2
    assert process.pid not in loaders
    assert loaded == {"none"}
    assert all(map(is_running, loaders))
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    wait_until_ended(loaders)


@pytest.mark.timeout(120)
def test_signals_meant_for_the_training_process_leave_its_data_alone(start):
    process, loaders, _ = start("wait for a line")
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
        for pid in loaders:
            os.kill(pid, number)
    time.sleep(0.2)
    output, errors = process.communicate("\n", timeout=60)
    assert output == "went on\n"
    assert process.returncode == 0, errors
    wait_until_ended(loaders)


@pytest.mark.timeout(120)
def test_an_error_in_the_training_process_ends_them_too(start):
    process, loaders, _ = start("raise")
    assert "RuntimeError: on purpose" in process.communicate(timeout=60)[1]
    assert process.returncode == 1
    wait_until_ended(loaders)


@pytest.mark.timeout(120)
def test_closing_the_batches_ends_them(start):
    process, loaders, _ = start("close")
    assert process.stdout.readline() == "closed\n"
    wait_until_ended(loaders)
    assert is_running(process.pid)
