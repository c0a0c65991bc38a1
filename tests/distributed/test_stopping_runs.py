"""Real runs that are warned of a pre-emption: all ranks stop at one step; resumed, they are as if nothing had been.

And those that cannot stop: a second signal ends them at once, and what hangs ends by itself.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from launchers.child import ranks_of
from launchers.prefixes import free_port
from telemetry.run_log import read_rows
from training import checkpoint
from training.run import is_taken
from training.stopping import AGAIN_S

pytestmark = pytest.mark.timeout(300)
RESNET, GPT = (("--recipe", str(Path(__file__).parent / f"tiny-{name}.toml")) for name in ("resnet", "gpt"))
ENDLESS = ("--set", "steps=1000000", "run.log_every=1")
LOADERS = ("performance.loader_workers=1",)
EXACT = ("step", "loss", "learning_rate", "grad_norm", "sample_digest", "samples")
COMMANDS = {
    "torch-single": ("distributed.torch_single",),
    "torch-ddp": ("launchers.train", "torch-ddp", "--workers", "2"),
    "torch-horovod": ("launchers.train", "torch-horovod", "--workers", "2"),
    "tf-mirrored": ("distributed.tf_mirrored", "--workers", "2"),
    "tf-horovod": ("launchers.train", "tf-horovod", "--workers", "2"),
}
TO_END_S = 60


class Started:
    """A run, every process of which bears its mark."""

    def __init__(self, run_dir: Path, *command: str) -> None:
        self.run_dir, self.mark = run_dir, f"{os.getpid()}-{run_dir}"
        self.launcher = subprocess.Popen(
            [sys.executable, "-m", *command, "--run-dir", str(run_dir)],
            env={
                **os.environ,
                "CUDA_VISIBLE_DEVICES": "",
                "OMP_NUM_THREADS": "1",
                "TRIMARAN_TEST": self.mark,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for_step(self, step: int) -> None:
        """Until a later one than this is logged."""
        metrics, end = self.run_dir / "metrics.jsonl", time.monotonic() + 120
        while not metrics.exists() or len(read_rows(metrics)) <= step:
            assert self.launcher.poll() is None, self.launcher.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.05)

    def processes(self) -> list[psutil.Process]:
        """All that live."""
        found = psutil.process_iter(["environ", "status"])
        return [
            process
            for process in found
            if (process.info["environ"] or {}).get("TRIMARAN_TEST") == self.mark
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ]

    def rank(self, number: int) -> psutil.Process:
        """The training process of this rank."""
        names = ("RANK", "OMPI_COMM_WORLD_RANK")
        for process in ranks_of(self.launcher.pid):
            if any(process.environ().get(name) == str(number) for name in names):
                return process
        raise AssertionError(f"no rank {number}")

    def code(self) -> int:
        """How it ended; nothing of it is left behind."""
        self.errors = self.launcher.communicate(timeout=TO_END_S)[1]
        end = time.monotonic() + 5
        while left := self.processes():
            assert time.monotonic() < end, [process.cmdline() for process in left]
            time.sleep(0.05)
        return self.launcher.returncode

    def kill(self) -> None:
        """The end of it, whatever went wrong."""
        for process in self.processes():
            process.kill()
        self.launcher.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Start a command in a run directory of tmp_path."""
    started: list[Started] = []

    def run(name: str, *command: str) -> Started:
        started.append(Started(tmp_path / name, *command))
        return started[-1]

    yield run
    for each in started:
        each.kill()


@dataclass(frozen=True)
class Warned:
    """Who is sent which signal."""

    number: signal.Signals
    whom: str

    def send(self, run: Started) -> None:
        """Send it."""
        match self.whom:
            case "launcher":
                run.launcher.send_signal(self.number)
            case "rank 1":
                run.rank(1).send_signal(self.number)
            case "all":  # as Slurm does it, and a terminal: loader processes, torchrun and all
                for process in run.processes():
                    process.send_signal(self.number)


def stopped_step(run: Started, number: signal.Signals) -> int:
    """The one step that all of a warned run's files tell."""
    assert run.code() == 75, run.errors
    status = json.loads((run.run_dir / "status.json").read_text())
    step = status["step"]
    assert status["state"] == "preempted"
    assert status["reason"].startswith(f"{number.name}: ")
    assert checkpoint.complete_steps(run.run_dir / "checkpoints") == [step]
    for path in (run.run_dir / "metrics.jsonl", *run.run_dir.glob("timing-*.jsonl")):
        assert read_rows(path)[-1]["step"] == step, path
    return step


def exact_rows(run: Started) -> list[dict]:
    return [{key: row[key] for key in EXACT} for row in read_rows(run.run_dir / "metrics.jsonl")]


WAYS = {
    "torch-single": (Warned(signal.SIGINT, "launcher"), Warned(signal.SIGUSR1, "launcher")),
    "torch-ddp": (Warned(signal.SIGUSR2, "rank 1"), Warned(signal.SIGINT, "all")),
    "torch-horovod": (Warned(signal.SIGTERM, "launcher"), Warned(signal.SIGUSR2, "rank 1")),
    "tf-mirrored": (Warned(signal.SIGTERM, "launcher"), None),
    "tf-horovod": (Warned(signal.SIGTERM, "rank 1"), None),
}
"""How the run is warned that is resumed, and how the one that it is compared with: or this one is told to stop."""


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(name, marks=[pytest.mark.horovod] if name.endswith("horovod") else [])
        for name in COMMANDS
    ],
)
def test_warned_ranks_stop_at_one_step_and_resume_to_the_last_bit(start, strategy: str) -> None:
    command, (first, second) = COMMANDS[strategy], WAYS[strategy]
    recipe = GPT if strategy.startswith("tf-") else RESNET  # which TensorFlow traces for longer
    options = (*command, *recipe, *ENDLESS, *(LOADERS if strategy == "torch-ddp" else ()))
    parts = start("parts", *options)
    parts.wait_for_step(3)
    first.send(parts)
    last = stopped_step(parts, first.number) + 5
    if second is None:
        whole = start("whole", *options, "--stop-after", str(last))
        assert whole.code() == 75, whole.errors
    else:
        whole = start("whole", *options)
        whole.wait_for_step(last)
        second.send(whole)
        last = stopped_step(whole, second.number)
    resumed = start("parts", *command, "--resume", "--stop-after", str(last))
    assert resumed.code() == 75, resumed.errors
    assert exact_rows(resumed) == exact_rows(whole)
    assert len(exact_rows(whole)) == last


@pytest.mark.parametrize("strategy", ["torch-ddp", pytest.param("torch-horovod", marks=pytest.mark.horovod)])
def test_a_rank_that_is_killed_still_ends_the_run_soon(start, strategy: str) -> None:
    run = start("run", *COMMANDS[strategy], *RESNET, *ENDLESS, *LOADERS)
    run.wait_for_step(3)
    run.rank(1).kill()
    killed = time.monotonic()
    assert run.code() == 1
    assert time.monotonic() - killed < 20
    (*_, last) = run.errors.splitlines()
    assert last.startswith(f"trimaran: {strategy} failed: rank 1 ended with signal SIGKILL")


def test_a_second_signal_to_the_launcher_ends_all_at_once(start) -> None:
    run = start("run", *COMMANDS["torch-ddp"], *RESNET, *ENDLESS)
    run.wait_for_step(3)
    run.rank(1).suspend()  # so that there is no step to stop at
    signalled = time.monotonic()
    run.launcher.send_signal(signal.SIGINT)
    time.sleep(1.3 * AGAIN_S)
    run.launcher.send_signal(signal.SIGINT)
    assert run.code() == 128 + signal.SIGINT
    assert time.monotonic() - signalled < 20
    assert run.errors.splitlines()[-1] == "trimaran: SIGINT again: ended at once; go on with --resume"
    status = json.loads((run.run_dir / "status.json").read_text())
    assert status["state"] == "failed"
    assert status["reason"] == f"SIGINT twice: ended at once at step {status['step']}; go on with --resume"
    assert status["step"] >= 3


@pytest.mark.horovod
def test_a_rank_that_is_stopped_is_named_by_the_others_which_end(start) -> None:
    """Of the other strategies tests/faults tells."""
    run = start("run", *COMMANDS["torch-horovod"], *RESNET, *ENDLESS, "--hang-timeout-s", "6")
    run.wait_for_step(3)
    rank = run.rank(1)
    rank.suspend()
    stopped = time.monotonic()
    assert run.code() == 1
    assert time.monotonic() - stopped < 40
    (reason,) = {line for line in run.errors.splitlines() if "trimaran: rank 0: no progress for " in line}
    reason = reason.partition("trimaran: ")[2]
    assert f": waits for rank 1 (stopped; host {socket.gethostname()}, pid {rank.pid}, last sign " in reason
    assert run.errors.splitlines()[-1] == f"trimaran: torch-horovod failed: {reason}"
    status = json.loads((run.run_dir / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("failed", reason)
    assert "in steps" in (run.run_dir / "stacks-0.txt").read_text()  # of training/loop.py
    stacks = (run.run_dir / "stacks-1.txt").read_text()
    assert re.search(rf"^thread {rank.pid} \(python.*\): state T, ", stacks, re.MULTILINE)


def test_a_peer_that_never_joins_is_named(start, monkeypatch) -> None:
    """As a process on another node whose fellow does not come up; torchrun itself would not have started it."""
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)
    run = start("run", "distributed.torch_ddp", *RESNET, "--hang-timeout-s", "5")
    assert run.code() == 1
    expected = "(joining the group): waits for rank 1 (no sign of life since this start); stacks in "
    assert expected in run.errors.splitlines()[-1]
    status = json.loads((run.run_dir / "status.json").read_text())
    assert status["state"] == "failed"
    assert not is_taken("--run-dir", run.run_dir)  # the same command may start again
