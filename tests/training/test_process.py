import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from data.errors import DataError
from recipes.checking import RecipeError
from telemetry.run_log import write_status
from tests.ending import ends
from training.problems import NotRestarted, TrainingFailed, UsageError
from training.process import guarded, report_failure

ROOT = Path(__file__).parents[2]


def raises(error: BaseException):
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize("kind", [UsageError, RecipeError, DataError])
def test_a_mistake_is_one_line_from_rank_0_alone_and_exit_code_2(kind: type[Exception], capsys) -> None:
    assert guarded(raises(kind("--x: found y")), rank=0) == 2
    assert capsys.readouterr().err == "trimaran: --x: found y\n"
    assert guarded(raises(kind("--x: found y")), rank=1) == 2
    assert capsys.readouterr().err == ""


def test_codes_pass_through_but_torchrun_must_not_take_an_early_stop_for_a_crash(monkeypatch) -> None:
    monkeypatch.delenv("TRIMARAN_LAUNCHER", raising=False)
    assert [guarded(lambda code=code: code) for code in (0, 75, 2)] == [0, 75, 2]
    monkeypatch.setenv("TRIMARAN_LAUNCHER", "torchrun")
    assert [guarded(lambda code=code: code) for code in (0, 75, 2)] == [0, 0, 2]
    monkeypatch.setenv("TRIMARAN_LAUNCHER", "direct")
    assert guarded(lambda: 75) == 75
    assert guarded(raises(KeyboardInterrupt())) == 130


def test_a_failed_rank_ends_at_once_without_waiting_for_its_threads() -> None:
    code = (
        "import threading, time\n"
        "from training.process import guarded\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "raise SystemExit(guarded(lambda: 1))\n"
    )
    began = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=50).returncode == 1
    assert time.monotonic() - began < 40


def test_a_failure_is_recorded_with_its_traceback_and_told_in_one_line(tmp_path: Path, capsys) -> None:
    write_status(tmp_path, "running", 3)
    try:
        raise RuntimeError("first line\nsecond line")
    except RuntimeError as error:
        assert report_failure(tmp_path, 2, 5, error) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "rank 2 failed at step 5: RuntimeError: first line second line" in line
    note = (tmp_path / "failure-2.txt").read_text()
    assert "Traceback" in note
    assert "test_process.py" in note
    status = (tmp_path / "status.json").read_text()
    assert '"failed"' in status
    assert "rank 2 failed at step 5" in status


def test_the_first_failure_keeps_its_place_and_each_says_what_to_do(tmp_path: Path, capsys) -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    write_status(tmp_path, "running", 3)
    report_failure(tmp_path, 1, 5, OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    report_failure(tmp_path, 0, 5, RuntimeError("Connection closed by peer"))
    first, second = capsys.readouterr().err.splitlines()
    assert "2.00 GiB; out of memory: start with a larger --accumulation" in first
    assert "another rank or its node is gone" in second
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["reason"].startswith("rank 1 failed at step 5: OutOfMemoryError: CUDA out of memory")
    assert "would_repeat" not in status


def test_a_failure_that_would_come_again_is_marked_and_is_a_sentence(tmp_path: Path, capsys) -> None:
    error = TrainingFailed("step 5: the loss is not finite")
    error.add_note("all the samples")
    report_failure(tmp_path, 0, 5, error)
    assert json.loads((tmp_path / "status.json").read_text()) == {
        "state": "failed",
        "step": 5,
        "reason": "rank 0 failed at step 5: step 5: the loss is not finite",
        "would_repeat": True,
    }
    assert "all the samples" in (tmp_path / "failure-0.txt").read_text()
    assert "all the samples" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "known"), [(MemoryError("Unable to allocate 7 TiB"), True), (RuntimeError("a bug"), False)]
)
def test_before_the_first_step_too_a_known_failure_is_one_line(monkeypatch, capsys, error, known) -> None:
    class Exited(BaseException):
        pass

    def leave(code: int) -> None:
        assert code == 1
        raise Exited

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(Exited if known else RuntimeError):
        guarded(raises(error), rank=3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == known
    assert (
        not known
        or "rank 3 failed before its first step: MemoryError: Unable to allocate 7 TiB; out" in lines[0]
    )


@pytest.mark.parametrize(("launcher", "expected"), [(None, 75), ("direct", 75), ("torchrun", 0)])
def test_what_torchrun_is_not_to_start_again_ends_at_once(monkeypatch, capsys, launcher, expected) -> None:
    monkeypatch.delenv("TRIMARAN_LAUNCHER", raising=False)
    if launcher:
        monkeypatch.setenv("TRIMARAN_LAUNCHER", launcher)
    assert guarded(raises(NotRestarted("stopped", 75)), rank=0) == expected
    monkeypatch.setattr("training.process.HEAD_START_S", 0.0)
    assert guarded(raises(NotRestarted("stopped", 75)), rank=1) == expected
    assert capsys.readouterr().err == "trimaran: stopped\n"


def test_a_failure_that_cannot_be_recorded_is_still_told(tmp_path: Path, capsys) -> None:
    assert report_failure(tmp_path / "gone", 0, 5, OSError(28, "No space left on device")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line
    assert "cannot be written" in line


def test_a_process_dies_with_its_parent() -> None:
    """A parent that is killed with -9 says nothing to its child; the kernel does."""
    child = (
        "import time\n"
        "from training.process import die_with_parent\n"
        "die_with_parent()\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE, text=True)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        grandchild = psutil.Process(int(process.stdout.readline()))
        assert grandchild.is_running()
        os.kill(process.pid, signal.SIGKILL)
        assert ends(grandchild.pid)


def test_a_process_leaves_with_what_it_said_and_before_anything_can_go_wrong() -> None:
    program = """
import atexit, os
from training.process import leave
atexit.register(os.abort)
print("said", end="")
leave(75)
"""
    ended = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (75, "said")
