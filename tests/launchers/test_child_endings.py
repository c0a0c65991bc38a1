import os
import time
from pathlib import Path

import pytest

from launchers.child import explain, rank_endings
from training.hanging import NO_PROGRESS

KILLED = "rank 1 ended with signal SIGKILL (perhaps by the kernel, out of memory: see dmesg)"
TORCHRUN_REPORT = """
============================================================
distributed.torch_ddp FAILED
------------------------------------------------------------
Failures:
[1]:
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 11)
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 12)
  traceback : Signal 9 (SIGKILL) received by PID 12
============================================================
"""
OPEN_MPI_KILLED = """
--------------------------------------------------------------------------
Primary job  terminated normally, but 1 process returned
a non-zero exit code. Per user-direction, the job has been aborted.
--------------------------------------------------------------------------
--------------------------------------------------------------------------
mpirun noticed that process rank 1 with PID 0 on node vm exited on signal 9 (Killed).
--------------------------------------------------------------------------
"""
OPEN_MPI_EXITED = """
mpirun detected that one or more processes exited with non-zero status, thus causing
the job to be terminated. The first process to do so was:

  Process name: [[31471,1],1]
  Exit code:    3
--------------------------------------------------------------------------
"""
HOROVODRUN_REPORT = """
[1]<stderr>:Killed
Process 1 exit with status code 137.
Terminating remaining workers after failure of Process 1.
[0]<stderr>:Terminated
Process 0 exit with status code 143.
RuntimeError: Horovod detected that one or more processes exited with non-zero status, thus causing the job to be \
terminated. The first process to do so was:
Process name: 1
Exit code: 137
"""
INTEL_MPI_REPORT = """
===================================================================================
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   RANK 1 PID 3030 RUNNING AT vm
=   KILLED BY SIGNAL: 9 (Killed)
===================================================================================
"""


def write_note(run_dir: Path, rank: int, age_s: float) -> None:
    note = run_dir / f"failure-{rank}.txt"
    note.write_text(f"rank {rank} failed at step 2: why\n\nTraceback")
    os.utime(note, (time.time() - age_s, time.time() - age_s))


@pytest.mark.parametrize("exit_code", [1, -6, -15])
def test_the_first_rank_that_recorded_a_reason_is_the_reason(tmp_path: Path, exit_code: int) -> None:
    for rank, age_s in ((0, -55), (3, -51), (1, -53)):
        write_note(tmp_path, rank, age_s)
    report = TORCHRUN_REPORT.replace("exitcode  : -9", f"exitcode  : {exit_code}")
    line = explain(1, report, tmp_path)
    assert line == f"rank 3 failed at step 2: why (traceback in {tmp_path}/failure-3.txt)"


def test_a_rank_that_was_killed_is_the_reason_why_others_failed(tmp_path: Path) -> None:
    write_note(tmp_path, 0, -50)  # "Connection closed by peer"
    assert explain(1, TORCHRUN_REPORT, tmp_path) == KILLED


@pytest.mark.parametrize(
    ("report", "endings"),
    [
        (TORCHRUN_REPORT, [("0", -15), ("1", -9)]),
        (OPEN_MPI_KILLED, [("1", -9)]),
        (OPEN_MPI_EXITED, [("1", 3)]),
        (HOROVODRUN_REPORT, [("1", -9)]),
        (HOROVODRUN_REPORT.replace("137", "1"), [("1", 1)]),
        (HOROVODRUN_REPORT.replace("137", "139"), [("1", -11)]),
        (OPEN_MPI_EXITED.replace("3\n", "128\n"), [("1", 128)]),
        (OPEN_MPI_EXITED.replace("3\n", "255\n"), [("1", 255)]),  # sys.exit(-1), not a signal
        (INTEL_MPI_REPORT, [("1", -9)]),
        (OPEN_MPI_KILLED.replace("rank 1", "rank 12") + OPEN_MPI_EXITED, [("12", -9), ("1", 3)]),
        ("Traceback …\nRuntimeError: rank 1", []),
    ],
)
def test_every_launcher_is_understood(report: str, endings: list[tuple[str, int]]) -> None:
    assert rank_endings(report) == endings


@pytest.mark.parametrize("report", [OPEN_MPI_KILLED, HOROVODRUN_REPORT, INTEL_MPI_REPORT])
def test_a_rank_that_mpirun_saw_killed_is_the_reason(tmp_path: Path, report: str) -> None:
    write_note(tmp_path, 0, -50)  # the others lost a peer
    assert explain(137, report, tmp_path) == KILLED


def test_a_rank_that_exited_under_mpirun_tells_why_itself_if_it_could(tmp_path: Path) -> None:
    assert explain(3, OPEN_MPI_EXITED, tmp_path) == "rank 1 ended with exit code 3"
    assert (
        explain(255, OPEN_MPI_EXITED.replace("3\n", "255\n"), tmp_path) == "rank 1 ended with exit code 255"
    )
    assert explain(1, HOROVODRUN_REPORT.replace("137", "143"), tmp_path) == "rank 1 ended with signal SIGTERM"
    write_note(tmp_path, 1, -50)
    for report in (OPEN_MPI_EXITED, HOROVODRUN_REPORT.replace("137", "1")):
        assert explain(3, report, tmp_path).startswith("rank 1 failed at step 2: why (traceback in ")


def test_what_an_earlier_start_recorded_is_not_the_reason(tmp_path: Path) -> None:
    write_note(tmp_path, 0, 3600)
    report = TORCHRUN_REPORT.replace("exitcode  : -9", "exitcode  : 3")
    assert explain(1, report, tmp_path) == "rank 1 ended with exit code 3"


def test_what_a_start_recorded_before_torchrun_made_another_is_not_the_reason(tmp_path: Path) -> None:
    report = TORCHRUN_REPORT.replace("exitcode  : -9", "exitcode  : 1")
    write_note(tmp_path, 0, -30)
    (tmp_path / "run.json").touch()
    os.utime(tmp_path / "run.json", (time.time() + 40,) * 2)  # the restart
    write_note(tmp_path, 1, -50)
    assert explain(1, report, tmp_path).startswith("rank 1 failed at step 2: why")


def test_who_tells_of_a_hang_is_believed_whomever_the_launcher_had_to_kill(tmp_path: Path) -> None:
    write_note(tmp_path, 1, -50)
    line = f"rank 0: {NO_PROGRESS} 10 s at step 7 (in a step): waits for rank 1 (stopped)"
    (tmp_path / "failure-0.txt").write_text(f"{line}\n\nrank 0: …")
    os.utime(tmp_path / "failure-0.txt", (time.time() + 40,) * 2)
    assert explain(1, TORCHRUN_REPORT, tmp_path) == line


def test_what_could_not_be_written_is_taken_from_what_was_said(tmp_path: Path) -> None:
    write_note(tmp_path, 0, -50)
    (tmp_path / "failure-0.txt").write_text("")  # the disk was full
    said = "rank 0 failed at step 14: OSError: [Errno 28] No space left on device"
    assert explain(1, f"[0]<stderr>:trimaran: {said}\nmore", tmp_path) == said


def test_a_signal_that_says_nothing_gets_a_hint(tmp_path: Path) -> None:
    assert "mapped was cut short" in explain(-7, "", tmp_path)


def test_without_either_the_last_error_is_shown(tmp_path: Path) -> None:
    text = "ImportError: no torch\nnothing more"
    assert explain(1, text, tmp_path) == "the training process ended with exit code 1: ImportError: no torch"
    assert explain(-11, "", tmp_path) == "the training process ended with signal SIGSEGV"
