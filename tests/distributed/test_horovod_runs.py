"""What is Horovod's own: its launchers, its options, ranks that die, and worlds that are none."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from telemetry.run_log import read_rows
from training import checkpoint

pytestmark = [pytest.mark.timeout(300), pytest.mark.horovod]
HERE = Path(__file__).parent
TINY = ("--recipe", str(HERE / "tiny-resnet.toml"))
ENDLESS = ("--set", "steps=1000000", "run.log_every=1")
MPIRUN = ("mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", "2", sys.executable)
SECONDS_TO_END = 45
NAMES = ("torch-horovod", "tf-horovod")


def column(run, key: str) -> list:
    return [row[key] for row in read_rows(run.run_dir / "metrics.jsonl") if "loss" in row]


def segment(run) -> dict:
    (only,) = json.loads((run.run_dir / "run.json").read_text())["segments"]
    return only


@pytest.mark.parametrize(
    "strategy",
    [pytest.param(name, marks=pytest.mark.runs(name, f"{name} over horovodrun")) for name in NAMES],
)
def test_the_launcher_makes_no_difference(strategy: str, done) -> None:
    mpirun, horovodrun = done
    assert horovodrun.code == 0, horovodrun.errors
    assert [segment(run)["launcher"] for run in done] == ["mpirun", "horovodrun"]
    assert [segment(run)["settings"]["horovod"]["controller"] for run in done] == ["mpi", "gloo"]
    # Sums of two numbers, so to the last bit whoever adds them.
    for key in ("loss", "grad_norm", "sample_digest"):
        assert column(mpirun, key) == column(horovodrun, key)
    ours, theirs = (checkpoint.load(run.run_dir / "checkpoints" / "step-00000006")[0] for run in done)
    for name, value in ours.parameters.items():
        np.testing.assert_array_equal(theirs.parameters[name], value)
    assert horovodrun.orphans == []


@pytest.mark.parametrize(
    ("strategy", "way"),
    [
        pytest.param(name, way, marks=pytest.mark.runs(name, f"{name} {way}"))
        for name in NAMES
        for way in ("tuned", "adasum")
    ],
)
def test_what_horovod_is_told_is_recorded_and_shows(strategy: str, way: str, done) -> None:
    plain, told = done
    assert told.code == 0, told.errors
    settings = segment(told)["settings"]["horovod"]
    if way == "tuned":
        assert settings["HOROVOD_FUSION_THRESHOLD"] == str(2**20)
        assert settings["HOROVOD_CYCLE_TIME"] == "2.5"
        assert settings["HOROVOD_STALL_CHECK_TIME_SECONDS"] == "30"
    assert settings["compression"] == ("fp16" if way == "tuned" else "none")
    assert settings["reduction"].startswith("adasum" if way == "adasum" else "sum")
    assert column(told, "loss")[0] == pytest.approx(column(plain, "loss")[0], rel=1e-12)
    assert column(told, "loss") != pytest.approx(
        column(plain, "loss"), rel=1e-9
    )  # another sum: other training
    assert column(told, "loss") == pytest.approx(column(plain, "loss"), rel=0.3 if way == "adasum" else 0.02)


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(way, marks=pytest.mark.runs(*(f"{name} {way}" for name in NAMES)))
        for way in ("tuned", "adasum")
    ],
)
def test_the_frameworks_agree_on_what_horovod_makes_of_gradients(way: str, done) -> None:
    torch, tf = done
    assert column(torch, "loss") == pytest.approx(column(tf, "loss"), rel=1e-3)
    assert column(torch, "grad_norm") == pytest.approx(column(tf, "grad_norm"), rel=1e-2)


@pytest.mark.runs("torch-horovod tuned")
def test_channels_last_gradients_travel_too(done) -> None:
    """Horovod refuses what is not contiguous; that run has them."""
    recipe = json.loads((done[0].run_dir / "run.json").read_text())["recipe"]
    assert recipe["performance"]["channels_last"] is True


def start(*command: str, mark: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        command,
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "TRIMARAN_TEST": mark,
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ranks(mark: str) -> dict[int, psutil.Process]:
    """The training processes of a run, by rank."""
    found = {}
    for process in psutil.process_iter(["environ", "cmdline"]):
        environment, command = process.info["environ"] or {}, process.info["cmdline"] or []
        rank = environment.get("OMPI_COMM_WORLD_RANK") or environment.get("HOROVOD_RANK")
        if environment.get("TRIMARAN_TEST") == mark and rank is not None and "python" in command[0]:
            found[int(rank)] = process
    return found


def wait_for_steps(run_dir: Path, launcher: subprocess.Popen) -> None:
    limit = time.monotonic() + 120
    while not (run_dir / "metrics.jsonl").exists() or len(read_rows(run_dir / "metrics.jsonl")) < 3:
        assert launcher.poll() is None, launcher.communicate()
        assert time.monotonic() < limit
        time.sleep(0.1)


def assert_all_gone(mark: str) -> None:
    limit = time.monotonic() + SECONDS_TO_END
    while alive := [each for each in ranks(mark).values() if each.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < limit, alive
        time.sleep(0.1)


@contextmanager
def endless_run(folder: Path, launcher: str) -> Iterator[subprocess.Popen]:
    """A run of two ranks under launchers.train that is past its first steps; what is left of it is killed."""
    options = (*TINY, *ENDLESS, "--workers", "2", "--run-dir", str(folder / "run"), "--launcher", launcher)
    process = start(sys.executable, "-m", "launchers.train", "torch-horovod", *options, mark=str(folder))
    try:
        wait_for_steps(folder / "run", process)
        yield process
    finally:
        process.kill()
        assert_all_gone(str(folder))
        process.communicate(timeout=SECONDS_TO_END)


@pytest.mark.parametrize("launcher", ["mpirun", "horovodrun"])
def test_when_a_rank_is_killed_the_others_end_and_it_is_named(tmp_path: Path, launcher: str) -> None:
    with endless_run(tmp_path, launcher) as process:
        ranks(str(tmp_path))[1].send_signal(signal.SIGKILL)
        assert process.stderr is not None
        last = process.stderr.read().splitlines()[-1]
        assert process.wait(SECONDS_TO_END) == 1
    assert last.startswith("trimaran: torch-horovod failed: rank 1 ended with signal SIGKILL")


@pytest.mark.parametrize("launcher", ["mpirun", "horovodrun"])
def test_when_the_launcher_is_killed_no_rank_stays_behind(tmp_path: Path, launcher: str) -> None:
    with endless_run(tmp_path, launcher) as process:
        assert sorted(ranks(str(tmp_path))) == [0, 1]
        process.kill()
        assert_all_gone(str(tmp_path))


def test_a_raw_mpirun_that_stops_early_ends_with_75(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    script = (
        *MPIRUN,
        "-m",
        "distributed.torch_horovod",
        *TINY,
        "--stop-after",
        "3",
        "--run-dir",
        str(run_dir),
    )
    process = start(*script, mark=str(tmp_path))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert json.loads((run_dir / "status.json").read_text())["state"] == "preempted"
    assert checkpoint.complete_steps(run_dir / "checkpoints") == [3]


def test_under_a_raw_mpirun_rank_0_alone_tells_the_mistake(tmp_path: Path) -> None:
    script = (*MPIRUN, "-m", "distributed.torch_horovod", *TINY, "--set", "sead=1")
    process = start(*script, "--run-dir", str(tmp_path / "run"), mark=str(tmp_path))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    (told,) = [line for line in errors.splitlines() if line.startswith("trimaran: ")]
    assert "sead" in told
    assert not (tmp_path / "run").exists()


def test_a_process_that_is_a_world_of_its_own_does_not_train_alone(tmp_path: Path) -> None:
    """As under the mpirun of another MPI than Horovod was built with."""
    place = {"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}
    script = (sys.executable, "-m", "distributed.torch_horovod", *TINY, "--run-dir", str(tmp_path / "run"))
    process = start(*script, mark=str(tmp_path), **place)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    (told,) = [line for line in errors.splitlines() if line.startswith("trimaran: ")]
    assert "rank 0 (local 0) of 2, but Horovod sees rank 0 (local 0) of 1" in told
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_ranks_with_different_recipes_stop_before_the_first_step(tmp_path: Path) -> None:
    run = (sys.executable, "-m", "distributed.torch_horovod", *TINY, "--run-dir", str(tmp_path / "run"))
    one = ("-np", "1", *run, "--set")
    process = start(*MPIRUN[:-3], *one, "seed=1", ":", *one, "seed=2", mark=str(tmp_path))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    (told,) = [line for line in errors.splitlines() if line.startswith("trimaran: ")]
    assert told.startswith("trimaran: recipe id: rank(s) 1 have another than rank 0")
    # No more than the signs of life, which make no run of a directory.
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".ranks"}


def test_more_workers_than_the_hosts_have_slots_are_not_started(tmp_path: Path) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text("localhost slots=2\n")
    command = ("mpirun", "--allow-run-as-root", "--hostfile", str(hostfile), "-np", "3", sys.executable)
    process = start(*command, "-m", "distributed.torch_horovod", *TINY, mark=str(tmp_path))
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "not enough slots" in errors
