"""What --dry-run prints is what is executed, and trains when it is pasted."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from launchers import commands, prefixes, train

TINY = Path(__file__).parents[1] / "distributed" / "tiny-gpt.toml"
EVERY = [(strategy, launcher) for strategy, all_ in commands.LAUNCHERS.items() for launcher in all_]
NASTY = """it's "a" $HOME; `id` $(touch X) \\ *"""
HOROVOD = pytest.mark.horovod


@pytest.fixture
def launchers_here(tmp_path: Path, monkeypatch) -> None:
    """Every launcher is on PATH, and each port the same; a Horovod for all of them."""
    for name in ("srun", "mpirun"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'mpirun (Open MPI) 4.1.4'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(prefixes, "free_port", lambda: 20001)
    monkeypatch.setattr(commands.horovod_setup, "check_build", lambda framework: Path("/lib/horovod"))
    monkeypatch.setattr(commands.horovod_setup, "has_mpi", lambda folder: True)


@pytest.mark.parametrize(("strategy", "launcher"), EVERY)
def test_what_is_printed_is_what_is_executed(
    launch, launchers_here, tmp_path: Path, monkeypatch, strategy: str, launcher: str
) -> None:
    run_dir = tmp_path / f"{NASTY}\n\u202e"
    executed: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(train, "run_child", lambda *arguments: executed.append(arguments) or (0, ""))
    workers = 1 if strategy.endswith("-single") else 2
    where = ("--launcher", launcher, "--workers", workers, "--nodes", 2 if launcher == "srun" else 1)
    arguments = (
        strategy,
        "--recipe",
        TINY,
        "--set",
        f"data.path={NASTY}",
        "--run-dir",
        run_dir,
        *where,
    )
    printed = launch(train, *arguments, "--dry-run")
    assert (printed.code, executed) == (0, [])
    assert launch(train, *arguments).code == 0
    ((command, environment),) = executed
    assert environment.pop("TRIMARAN_LAUNCHER") == launcher  # for our own reading of how it ends
    assert "\n".join(printed.output) == commands.as_shell(environment, command)
    assert f"data.path={NASTY}" in command
    assert str(run_dir) in command


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("strategy", "launcher"),
    [
        ("torch-ddp", "torchrun"),
        ("tf-mirrored", "direct"),
        pytest.param("torch-horovod", "mpirun", marks=HOROVOD),
        pytest.param("torch-horovod", "horovodrun", marks=HOROVOD),
    ],
)
def test_what_is_printed_can_be_pasted_into_a_shell(
    launch, tmp_path: Path, strategy: str, launcher: str
) -> None:
    run_dir = tmp_path / "it's a $(touch X); directory"
    options = ("--recipe", TINY, "--set", "steps=2", "data.path=no 'such' path", "--run-dir", run_dir)
    where = ("--workers", 2, "--launcher", launcher)
    (line,) = launch(train, strategy, *options, *where, "--dry-run").output
    environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    pasted = subprocess.run(
        ["sh", "-c", line],
        env={**environment, "CUDA_VISIBLE_DEVICES": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert pasted.returncode == 0, pasted.stderr
    assert json.loads((run_dir / "status.json").read_text())["state"] == "completed"
    assert json.loads((run_dir / "run.json").read_text())["recipe"]["data"]["path"] == "no 'such' path"
    assert [path.name for path in tmp_path.iterdir()] == [run_dir.name]
