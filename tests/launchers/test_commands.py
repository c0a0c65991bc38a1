import os
import shlex
import socket
from dataclasses import fields
from pathlib import Path

import pytest

from launchers import commands
from training.options import Options, parse
from training.problems import UsageError

FULL = Options(
    recipe="my own.toml",
    run_dir=Path("runs/it's here"),
    set=[("steps=3", "data.path=a b"), ("seed=2",)],
    accumulation=2,
    resume=True,
    stop_after=4,
    eager=True,
    replay_from=Path("other"),
    perturb_gradients=1,
)


def test_a_script_reads_the_options_that_it_is_given() -> None:
    words = commands.option_arguments(FULL)
    again = parse(Options, "x", words)
    for item in fields(Options):
        if item.name not in ("set", "workers"):
            assert getattr(again, item.name) == getattr(FULL, item.name) != item.default, item.name
    assert again.overrides == FULL.overrides
    assert commands.option_arguments(Options(recipe="r")) == ["--recipe", "r"]


@pytest.mark.parametrize("strategy", ["torch-single", "tf-single", "tf-mirrored"])
def test_a_strategy_of_one_process_is_started_directly(strategy: str) -> None:
    found = commands.training_command(strategy, 2, Options(recipe="r"), python="python")
    module = f"distributed.{strategy.replace('-', '_')}"
    assert found == ["python", "-m", module, "--recipe", "r", "--workers", "2"]


def test_torchrun_starts_one_process_a_worker_and_listens_on_loopback_alone() -> None:
    found = commands.training_command("torch-ddp", 3, Options(recipe="r"), python="python", port=20001)
    assert found == [
        *("python", "-m", "torch.distributed.run", "--nproc-per-node=3", "--nnodes=1"),
        *("--master-addr=127.0.0.1", "--master-port=20001"),
        *("-m", "distributed.torch_ddp", "--recipe", "r", "--workers", "3"),
    ]
    assert "--standalone" not in found


def test_the_environment_finds_the_checkout_first_and_gives_a_worker_one_thread(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = commands.training_environment("torch-ddp")
    assert found == {"PYTHONPATH": f"{commands.CHECKOUT}{os.pathsep}/elsewhere", "OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("PYTHONPATH", str(commands.CHECKOUT))
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert commands.training_environment("torch-ddp") == {"PYTHONPATH": str(commands.CHECKOUT)}


def test_a_line_for_the_shell_is_read_back_word_by_word() -> None:
    command = ["python", "-m", "x", "--set", "a=$HOME 'b' \"c\" ; rm *", ""]
    line = commands.as_shell({"KEY": "two words"}, command)
    assert shlex.split(line) == ["KEY=two words", *command]


def test_a_launcher_that_cannot_start_the_strategy_is_refused() -> None:
    assert commands.choose_launcher("torch-ddp", None) == "torchrun"
    assert commands.choose_launcher("tf-mirrored", "direct") == "direct"
    with pytest.raises(
        UsageError, match=r"^--launcher: found 'torchrun', expected for tf-single one of: direct"
    ):
        commands.choose_launcher("tf-single", "torchrun")


def test_a_free_port_is_below_the_ephemeral_range_and_not_taken(monkeypatch) -> None:
    port = commands.free_port()
    assert commands.FIRST_PORT <= port < commands.LAST_PORT
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        monkeypatch.setattr(commands, "FIRST_PORT", number)
        monkeypatch.setattr(commands, "LAST_PORT", number + 1)
        with pytest.raises(UsageError, match=f"no free port from {number}"):
            commands.free_port()


def test_runs_go_side_by_side_on_cores_but_share_no_gpu(monkeypatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    monkeypatch.setattr(commands, "visible_gpus", lambda: 0)
    assert commands.default_jobs() == 3
    monkeypatch.setattr(commands, "visible_gpus", lambda: 8)
    assert commands.default_jobs() == 1
