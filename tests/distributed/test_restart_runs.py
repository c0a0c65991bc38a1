"""Real runs of two processes, one of which is killed: started again they end as if nothing had been."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.prefixes import free_port
from telemetry.run_log import read_rows
from tests.planting import planted

pytestmark = pytest.mark.timeout(300)
TINY = str(Path(__file__).parent / "tiny-resnet.toml")
OPTIONS = ("--workers", "2", "--recipe", TINY, "--set", "run.checkpoint_every=2")
EXACT = ("step", "loss", "learning_rate", "grad_norm", "sample_digest", "samples")
KILLED_ONCE = """
def plant(toolbox):
    whole, calls = toolbox.loss_sum, []
    def dying(*arguments):
        calls.append(1)
        if RANK == "1" and len(calls) == 4 and not os.path.exists(os.environ["KILLED"]):
            open(os.environ["KILLED"], "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments)
    toolbox.loss_sum = dying
PLANTS = {"distributed.toolbox_torch": plant}
"""
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def run(tmp_path: Path, *command: str, stop: bool = False) -> tuple[subprocess.CompletedProcess, Path]:
    environment = {**ENVIRONMENT, **planted(tmp_path, KILLED_ONCE)}
    environment["KILLED"] = str(tmp_path / ("never" if stop else "killed"))
    if stop:
        (tmp_path / "never").touch()
    run_dir = tmp_path / "run"
    ended = subprocess.run(
        [sys.executable, "-m", *command, *OPTIONS, "--run-dir", str(run_dir)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return ended, run_dir


def described(run_dir: Path, name: str) -> dict:
    return json.loads((run_dir / f"{name}.json").read_text())


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("torch-ddp", marks=pytest.mark.runs("torch-ddp")),
        pytest.param("torch-horovod", marks=[pytest.mark.runs("torch-horovod"), pytest.mark.horovod]),
        pytest.param(
            "torch-horovod --launcher horovodrun",
            marks=[pytest.mark.runs("torch-horovod over horovodrun"), pytest.mark.horovod],
        ),
    ],
)
def test_a_killed_run_goes_on_from_its_last_checkpoint(done, tmp_path: Path, command: str) -> None:
    ended, run_dir = run(tmp_path, "launchers.train", *command.split(), "--max-restarts", "2")
    assert ended.returncode == 0, ended.stderr
    (line,) = [text for text in ended.stderr.splitlines() if "trimaran: restart " in text]
    why = "rank 1 left no word" if command == "torch-ddp" else "rank 1 ended with signal SIGKILL"
    assert line.startswith(f"trimaran: restart 1 of 2 from step 2: {why}"), line
    assert described(run_dir, "status") == {"state": "completed", "step": 6, "reason": None}
    assert [each["first_step"] for each in described(run_dir, "run")["segments"]] == [0, 2]
    rows, undisturbed = (
        [{key: row[key] for key in EXACT} for row in read_rows(folder / "metrics.jsonl") if "loss" in row]
        for folder in (run_dir, done[0].run_dir)
    )
    assert rows == undisturbed
    assert [row["step"] for row in read_rows(run_dir / "metrics.discarded.jsonl")] == [3]


def torchrun() -> tuple[str, ...]:
    """With a port of its own: a torchrun that was given 0 does not find its store again when it restarts."""
    group = ("--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={free_port()}")
    return ("torch.distributed.run", *group, "--max-restarts=2", "-m", "distributed.torch_ddp")


def test_a_bare_torchrun_does_not_start_a_stopped_run_again_nor_go_on_with_anothers(tmp_path: Path) -> None:
    ended, run_dir = run(tmp_path, *torchrun(), "--stop-after", "3", stop=True)
    assert ended.returncode == 1  # torchrun's word for 75
    told = f"trimaran: {run_dir}: stopped at step 3, and not restarted; go on with --resume"
    assert ended.stderr.splitlines().count(told) == 2
    assert described(run_dir, "status")["state"] == "preempted"
    assert len(described(run_dir, "run")["segments"]) == 1
    before = {path: os.stat(path).st_mtime_ns for path in run_dir.rglob("*")}
    shutil.rmtree(tmp_path / "planted")
    ended, _ = run(tmp_path, *torchrun(), stop=True)
    assert ended.returncode == 1
    assert sum("exists already; go on with --resume" in line for line in ended.stderr.splitlines()) == 3
    assert {path: os.stat(path).st_mtime_ns for path in run_dir.rglob("*")} == before
