"""The sbatch files, run by bash with programs in place of Slurm's that note how they were called."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.bench import ROOT, Bench

FILES = {
    name: ROOT / "slurm" / f"{name}.sbatch"
    for name in ("torch_ddp", "torch_horovod", "tf_mirrored", "tf_horovod")
}
DDP = FILES["torch_ddp"]
MPI, WORKERS = ' --mpi="${MPI:-pmix}"', ' --workers "$SLURM_NTASKS"'
QUIET_TF = '\n    TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"'
ARGUMENTS = (
    "--recipe",
    "digits-resnet18",
    "--set",
    'data.path=it\'s a $(touch X) `touch X` "place"; \\ *',
    "steps=2",
)
PREEMPTED = '{"state": "preempted", "step": 4, "reason": "SIGUSR2: stopped with a checkpoint, to go on with --resume"}'
ASKED = '{"state": "preempted", "step": 4, "reason": "--stop-after 4"}'
COMPLETED = '{"state": "completed", "step": 9, "reason": null}'


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.slurm
def test_shellcheck_finds_nothing() -> None:
    files = [
        path for pattern in ("slurm/*.sbatch", "launchers/*.sh", "tools/*.sh") for path in ROOT.glob(pattern)
    ]
    assert len(files) >= 10
    command = ["shellcheck", *files]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert checked.returncode == 0, checked.stdout


def test_the_four_differ_in_nothing_but_their_strategies() -> None:
    common = set()
    for name, path in FILES.items():
        text = path.read_text()
        assert (MPI in text, QUIET_TF in text, WORKERS in text) == (
            name.endswith("horovod"),
            name.startswith("tf_"),
            name != "tf_mirrored",
        )
        for part in (MPI, QUIET_TF, WORKERS):
            text = text.replace(part, "")
        lines = text.replace(name, "NAME").replace(name.replace("_", "-"), "NAME").splitlines()
        assert "One task" in lines[1]
        assert lines[3].startswith("#   sbatch --nodes=4 --ntasks-per-node=")
        common.add("\n".join([*lines[:1], lines[2], *lines[4:]]))
    assert len(common) == 1


@pytest.mark.parametrize(
    "path", [*FILES.values(), ROOT / "slurm" / "scaling_study.sbatch"], ids=lambda path: path.stem
)
def test_a_file_is_short_and_asks_for_no_gpu(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= (90 if path.stem == "scaling_study" else 75)
    asked = [line for line in lines if line.startswith("#SBATCH")]
    assert asked == [
        f"#SBATCH --job-name={path.stem.replace('_', '-')}",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=2",
        f"#SBATCH --signal={'B:' if path.stem == 'scaling_study' else ''}USR2@120",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --output=%x-%j.out",
    ]
    numbers = [int(line[2]) for line in lines if re.match(r"# \d\. ", line)]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= 4


@pytest.mark.parametrize("name", FILES)
def test_all_arguments_reach_the_script_unchanged(bench: Bench, name: str) -> None:
    code, errors = bench.run(FILES[name], *ARGUMENTS)
    assert (code, errors) == (0, "")
    workers = () if name == "tf_mirrored" else ("--workers", "4")
    script = ("-m", f"distributed.{name}", "--run-dir", "runs/name-7")
    assert bench.command == [sys.executable, *script, *ARGUMENTS, *workers]
    words, _ = bench.called
    assert words[: words.index("env")] == [
        *(["--mpi=pmix"] if name.endswith("horovod") else []),
        "--kill-on-bad-exit=1",
        "--distribution=block",
    ]
    assert bench.variables == {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TRIMARAN_LAUNCHER": "srun",
        **({"TF_CPP_MIN_LOG_LEVEL": "2"} if name.startswith("tf_") else {}),
    }


def test_what_the_user_has_set_stays(bench: Bench) -> None:
    bench.run(
        FILES["tf_horovod"],
        PYTHONPATH="/of/a/module",
        OMP_NUM_THREADS="3",
        TF_CPP_MIN_LOG_LEVEL="0",
        MPI="pmi2",
    )
    assert bench.variables["PYTHONPATH"] == f"{ROOT}:/of/a/module"
    assert (bench.variables["OMP_NUM_THREADS"], bench.variables["TF_CPP_MIN_LOG_LEVEL"]) == ("3", "0")
    assert bench.called[0][0] == "--mpi=pmi2"


def test_srun_is_told_of_the_cpus_of_a_task(bench: Bench) -> None:
    bench.run(DDP)
    assert "SRUN_CPUS_PER_TASK" not in bench.called[1]
    bench.run(DDP, SLURM_CPUS_PER_TASK="12")
    assert bench.called[1]["SRUN_CPUS_PER_TASK"] == "12"


@pytest.mark.parametrize(
    ("arguments", "restarts", "begun", "resumes"),
    [
        ((), "0", "runs/name-7", False),
        ((), "1", "runs/name-7", True),
        ((), "1", None, False),  # it was stopped before there was a run
        (("--run-dir", "a b"), "2", "a b", True),
        (("--run-dir=a=b",), "2", "a=b", True),
        (("--run-dir", "first", "--run-dir=last"), "1", "last", True),
        (("--run-dir", "first", "--run-dir=last"), "1", "first", False),
    ],
)
def test_a_requeued_job_resumes_a_run_that_has_begun(
    bench: Bench, arguments, restarts, begun, resumes
) -> None:
    if begun:
        (bench.place / begun).mkdir(parents=True)
        (bench.place / begun / "run.json").touch()
    assert bench.run(DDP, *arguments, SLURM_RESTART_COUNT=restarts) == (0, "")
    assert ("--resume" in bench.command) == resumes
    assert bench.command[5:][resumes : len(arguments) + resumes] == list(arguments)


@pytest.mark.parametrize(
    ("srun", "status", "state", "code", "requeues"),
    [
        (0, COMPLETED, "RUNNING", 0, False),
        (0, PREEMPTED, "RUNNING", 75, True),
        (0, PREEMPTED, "COMPLETING", 75, False),  # scancel
        (0, ASKED, "RUNNING", 75, False),
        (0, None, "RUNNING", 0, False),
        (134, PREEMPTED, "RUNNING", 75, True),  # a rank stumbled when all was saved
        (1, '{"state": "failed", "step": 1, "reason": "SIG"}', "RUNNING", 1, False),
        (2, None, "RUNNING", 2, False),
        (137, None, "RUNNING", 137, False),
        (140, None, "RUNNING", 75, True),  # SIGUSR2 before the first step
        (138, None, "RUNNING", 75, True),
        (140, None, "COMPLETING", 140, False),
    ],
)
def test_how_the_job_ends(bench: Bench, srun, status, state, code, requeues) -> None:
    environment = {"STATUS": status} if status else {}
    ended, errors = bench.run(DDP, CODE=str(srun), STATE=state, **environment)
    assert (ended, errors, bench.requeued) == (code, "", requeues)


def test_the_status_of_an_earlier_start_does_not_requeue(bench: Bench) -> None:
    run_dir = bench.place / "runs" / "name-7"
    run_dir.mkdir(parents=True)
    (run_dir / "status.json").write_text(PREEMPTED)
    assert bench.run(DDP, CODE="1", SLURM_RESTART_COUNT="1") == (1, "")
    assert not bench.requeued


@pytest.fixture
def waiting(bench: Bench) -> Iterator[subprocess.Popen]:
    """A job whose tasks train until they are warned."""
    job = bench.start(DDP, WAITS="", STAYS_S="0.5", STATUS=PREEMPTED)
    give_up = time.monotonic() + 10
    while not (bench.place / "srun.json").exists() and time.monotonic() < give_up:
        time.sleep(0.02)
    time.sleep(0.2)
    yield job
    job.kill()
    job.wait()


@pytest.mark.parametrize("warnings", [("SIGUSR2",), ("SIGTERM",), ("SIGUSR2", "SIGTERM", "SIGUSR2")])
def test_a_warning_to_the_shell_reaches_srun_as_sigusr2(bench: Bench, waiting, warnings) -> None:
    for name in warnings:
        waiting.send_signal(signal.Signals[name])
        time.sleep(0.1)
    _, errors = waiting.communicate(timeout=10)
    assert (waiting.returncode, errors, bench.requeued) == (75, "", True)
    assert int((bench.place / "heard").read_text()) == len(warnings)


HOST = str(ROOT)


def test_apptainer(bench: Bench) -> None:
    bench.run(DDP, *ARGUMENTS, CONTAINER="apptainer", IMAGE="x y.sif", PYTHON="", MOUNTS="/data:/data")
    mounts = f"{HOST}:{HOST},{bench.place}:{bench.place},/data:/data"
    words, _ = bench.called
    inside = ["apptainer", "exec", "--nv", "--bind", mounts, "--pwd", str(bench.place), "x y.sif", "env"]
    assert words[2 : len(inside) + 2] == inside
    assert bench.command[:5] == ["python", "-m", "distributed.torch_ddp", "--run-dir", "runs/name-7"]
    assert bench.variables["PYTHONPATH"] == HOST


def test_pyxis(bench: Bench) -> None:
    bench.run(FILES["tf_horovod"], CONTAINER="pyxis", IMAGE="nvcr.io#a/b:1", PYTHON="/opt/python")
    mounts = f"--container-mounts={HOST}:{HOST},{bench.place}:{bench.place}"
    words, _ = bench.called
    assert words[3:7] == [
        "--container-image=nvcr.io#a/b:1",
        mounts,
        f"--container-workdir={bench.place}",
        "env",
    ]
    assert bench.command[0] == "/opt/python"


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"CONTAINER": "docker", "IMAGE": "x"}, "CONTAINER: found docker, expected apptainer, pyxis or none"),
        ({"CONTAINER": "pyxis"}, "IMAGE: not set, but CONTAINER=pyxis needs one"),
        (
            {"TRIMARAN_HOME": "/nowhere"},
            "/nowhere: no checkout of Trimaran; call sbatch in one, or set TRIMARAN_HOME",
        ),
        ({"PYTHON": "/no/python"}, "/no/python: not found; run make setup, or set PYTHON"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(bench: Bench, environment, line: str) -> None:
    assert bench.run(DDP, **environment) == (2, f"trimaran: {line}\n")
    assert not (bench.place / "srun.json").exists()
