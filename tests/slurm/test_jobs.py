"""The sbatch files as they are, given to a real Slurm of two nodes: they train, and they survive what happens there."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.slurm.cluster import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]
ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "distributed" / "tiny-resnet.toml"
SHORT = ("--recipe", str(TINY))
LONG = (*SHORT, "--set", "steps=120")
"""Long enough that a warning comes in the midst of it."""
DIGITS = ("--recipe", "digits-resnet18", "--set", "steps=3", "run.log_every=1", "precision=float64")
ENVIRONMENT = {"TRIMARAN_HOME": str(ROOT), "PYTHON": sys.executable}
TIME_LIMIT_S = 150


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Callable[..., dict[int, float]]:
    """The losses of four workers of torch-ddp on this node, without Slurm."""
    known: dict[tuple[str, ...], dict[int, float]] = {}

    def losses_of(arguments: tuple[str, ...]) -> dict[int, float]:
        if arguments not in known:
            run_dir = tmp_path_factory.mktemp("alone") / "run"
            start = [sys.executable, "-m", "launchers.train", "torch-ddp", "--workers", "4"]
            command = [*start, "--run-dir", run_dir, *arguments]
            ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIME_LIMIT_S)
            assert ended.returncode == 0, ended.stderr
            known[arguments] = losses(run_dir)
        return known[arguments]

    return losses_of


@pytest.fixture
def submit(cluster: Cluster, tmp_path: Path) -> Callable[..., tuple[int, Path]]:
    """sbatch of a strategy's file; returns the job and its run directory."""

    def call(strategy: str, *arguments: str) -> tuple[int, Path]:
        file = ROOT / "slurm" / f"{strategy.replace('-', '_')}.sbatch"
        job = cluster.submit(file, *arguments, env=ENVIRONMENT, cwd=tmp_path)
        return job, tmp_path / "runs" / f"{strategy}-{job}"

    return call


def losses(run_dir: Path) -> dict[int, float]:
    """Loss of each step; none may stand there twice."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == list(range(1, len(steps) + 1))
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def status(run_dir: Path) -> dict:
    return json.loads((run_dir / "status.json").read_text())


def assert_trains_like(run_dir: Path, expected: dict[int, float], bound: float = 1e-12) -> None:
    assert status(run_dir)["state"] == "completed"
    segment = json.loads((run_dir / "run.json").read_text())["segments"][-1]
    assert segment["workers"] == 4
    assert losses(run_dir) == pytest.approx(expected, rel=bound, abs=0)


def wait_for_steps(cluster: Cluster, job: int, run_dir: Path, count: int) -> None:
    give_up = time.monotonic() + TIME_LIMIT_S
    path = run_dir / "metrics.jsonl"
    while not path.exists() or path.read_text().count('"loss"') < count:
        assert time.monotonic() < give_up, cluster.output(job)
        time.sleep(0.05)


HOROVOD = pytest.mark.horovod


@pytest.mark.parametrize(
    "strategy",
    [
        "torch-ddp",
        pytest.param("torch-horovod", marks=HOROVOD),
        "tf-mirrored",
        pytest.param("tf-horovod", marks=HOROVOD),
    ],
)
def test_four_workers_on_two_nodes_train_like_four_on_one(
    cluster: Cluster, submit, alone, strategy: str
) -> None:
    job, run_dir = submit(strategy, *DIGITS)
    cluster.wait(job, timeout_s=TIME_LIMIT_S)
    assert_trains_like(run_dir, alone(DIGITS))


def test_submit_trains_the_digits_wherever_it_is_told(cluster: Cluster, alone, tmp_path: Path) -> None:
    where = (
        "--nodes",
        "2",
        "--workers-per-node",
        "2",
        "--time",
        "5",
        "--job-name",
        "digits",
        "--site",
        os.devnull,
    )
    run_dir = tmp_path / "runs" / 'it\'s $(touch X) `touch X` "é" \\ #1'
    command = (sys.executable, "-m", "launchers.submit", "torch-ddp", *where, "--run-dir", run_dir, *DIGITS)
    job = int(cluster.run(*command, cwd=tmp_path, env=ENVIRONMENT))
    cluster.wait(job, timeout_s=TIME_LIMIT_S)
    assert_trains_like(run_dir, alone(DIGITS))
    assert {path.name for path in tmp_path.iterdir()} == {"runs", f"digits-{job}.out"}


def assert_went_on(cluster: Cluster, job: int, run_dir: Path, expected: dict[int, float]) -> None:
    """The job was requeued once, and trained on from the step at which all had stopped."""
    cluster.wait(job, "PENDING", timeout_s=60)
    stopped = status(run_dir)
    assert (stopped["state"], stopped["reason"][:8]) == ("preempted", "SIGUSR2:")
    step = stopped["step"]
    assert 3 <= step < max(expected)
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == [f"step-{step:08d}"]
    for rank in range(4):
        windows = (run_dir / f"timing-{rank}.jsonl").read_text().splitlines()
        assert json.loads(windows[-1])["step"] == step, rank
    ended = cluster.wait(job, timeout_s=TIME_LIMIT_S)
    assert ended["Restarts"] == "1"
    segments = json.loads((run_dir / "run.json").read_text())["segments"]
    assert [segment["first_step"] for segment in segments] == [0, step]
    assert_trains_like(run_dir, expected, bound=1e-9)


def test_a_warned_job_stops_is_requeued_and_loses_nothing(cluster: Cluster, submit, alone) -> None:
    expected = alone(LONG)
    job, run_dir = submit("torch-ddp", *LONG)
    wait_for_steps(cluster, job, run_dir, 3)
    cluster.run("scancel", "--signal=USR2", str(job))
    assert_went_on(cluster, job, run_dir, expected)


@HOROVOD
def test_an_urgent_job_gets_the_nodes_at_once(cluster: Cluster, submit, alone) -> None:
    expected = alone(LONG)
    job, run_dir = submit("torch-horovod", *LONG)
    wait_for_steps(cluster, job, run_dir, 3)
    urgent = cluster.submit("--partition=urgent", "--nodes=2", "--exclusive", "--wrap=true")
    cluster.wait(urgent, timeout_s=60)
    assert_went_on(cluster, job, run_dir, expected)


def test_a_cancelled_job_stays_cancelled(cluster: Cluster, submit) -> None:
    job, run_dir = submit("torch-ddp", *LONG)
    wait_for_steps(cluster, job, run_dir, 3)
    cluster.cancel(job)
    assert status(run_dir)["state"] == "preempted"  # it had the time to save what it had
    time.sleep(3)
    shown = cluster.show(job)
    assert (shown["JobState"], shown["Restarts"]) == ("CANCELLED", "0")


def test_a_rank_that_dies_frees_the_nodes(cluster: Cluster, submit) -> None:
    job, run_dir = submit("torch-ddp", *LONG)
    wait_for_steps(cluster, job, run_dir, 3)
    wanted = {"SLURM_JOB_ID": str(job), "SLURM_PROCID": "3"}
    (victim,) = (
        process
        for process in psutil.process_iter(["name", "environ"])
        if process.info["name"].startswith("python")
        and wanted.items() <= (process.info["environ"] or {}).items()
        and "SLURM_STEP_ID" in process.info["environ"]
    )
    victim.send_signal(signal.SIGKILL)
    ended = cluster.wait(job, "FAILED", timeout_s=20)
    assert ended["Restarts"] == "0"
    assert "node2: task 3: Killed" in cluster.output(job)


@HOROVOD
def test_mpirun_starts_workers_all_over_the_allocation(cluster: Cluster, alone, tmp_path: Path) -> None:
    train = f"{sys.executable} -m launchers.train torch-horovod --launcher mpirun --nodes 2 --workers 4"
    wrap = f"--wrap={train} --recipe {TINY} --run-dir run"
    job = cluster.submit("--nodes=2", "--ntasks-per-node=2", wrap, env=ENVIRONMENT, cwd=tmp_path)
    cluster.wait(job, timeout_s=TIME_LIMIT_S)
    assert_trains_like(tmp_path / "run", alone(SHORT))
