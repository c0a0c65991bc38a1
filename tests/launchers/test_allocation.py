import os
import sys
from pathlib import Path

import pytest

from launchers import allocation

ONE = {"host": "a", "code": "c", "python": "3.11.7", "gpus": 0, "sees_file": True, "unknown_names": []}
SRUN = """#!/bin/sh
{first}
for rank in 0 1; do
    SLURM_STEP_ID=0 SLURM_PROCID=$rank SLURM_STEP_NUM_TASKS=2 SLURM_LOCALID=0 SLURM_NODEID=$rank \
    SLURM_STEP_TASKS_PER_NODE='1(x2)' SLURM_STEP_NODELIST=localhost,127.0.0.1 \
    {python} -m distributed.presence "{marker}"
done
"""


@pytest.fixture
def srun(tmp_path: Path, monkeypatch):
    """Puts an srun on PATH that starts two tasks, all of it in a job of two nodes."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")

    def install(first: str = "", marker: str = "$last") -> None:
        last = 'for last in "$@"; do :; done'
        program = tmp_path / "srun"
        program.write_text(SRUN.format(first=f"{last}\n{first}", python=sys.executable, marker=marker))
        program.chmod(0o755)

    return install


def test_the_nodes_of_a_job_report_what_they_see(srun, tmp_path: Path) -> None:
    srun()
    check = allocation.nodes(tmp_path)
    assert (check.state, check.mend) == ("ok", "")
    assert check.found.startswith("2 (")
    assert not list(tmp_path.glob(".trimaran-*"))


def test_a_folder_that_is_not_shared_is_found(srun, tmp_path: Path) -> None:
    srun(marker="/nowhere/x")
    check = allocation.nodes(tmp_path)
    assert check.state == "broken"
    assert f"cannot see {tmp_path}" in check.found


def test_what_srun_says_is_passed_on(srun, tmp_path: Path) -> None:
    srun(first='echo "srun: error: no python there" >&2; exit 3')
    check = allocation.nodes(tmp_path)
    assert (check.state, check.found) == (
        "broken",
        "srun started 0 of 2 tasks, exit code 3: srun: error: no python there",
    )


@pytest.mark.parametrize(
    ("change", "state", "words"),
    [
        ({}, "ok", "2 (a, b), one code, 0 GPU(s) each"),
        ({"code": "d"}, "broken", "b: another code than a"),
        ({"python": "3.12.1"}, "broken", "b: another Python than a"),
        ({"sees_file": False}, "broken", "b cannot see /w"),
        ({"unknown_names": ["a"]}, "broken", "a: does not resolve everywhere"),
        ({"gpus": 4}, "note", "2 (a, b), one code, 0 or 4 GPU(s) each"),
    ],
)
def test_nodes_that_cannot_train_together_are_named(change: dict, state: str, words: str) -> None:
    check = allocation.judge([ONE, {**ONE, "host": "b", **change}], Path("/w"))
    assert (check.state, check.found) == (state, words)
    assert bool(check.mend) == (state != "ok")


def test_outside_of_a_job_there_are_no_nodes(monkeypatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    assert allocation.num_nodes() == 0
