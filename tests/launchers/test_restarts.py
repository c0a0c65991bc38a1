import json
import os
import signal
from pathlib import Path

import pytest

from launchers import restarts, train
from launchers.child import HEARD
from launchers.restarts import Ending
from telemetry.run_log import write_status
from training.restart import RESTART

KILLED = "mpirun noticed that process rank 1 with PID 0 on node vm exited on signal 9 (Killed)."
SAID = "rank 1 ended with signal SIGKILL (perhaps by the kernel, out of memory: see dmesg)"
DIGITS = ("--recipe", "digits-resnet18", "--set", "model.width=8")


@pytest.fixture(autouse=True)
def nothing_heard() -> None:
    HEARD.clear()


def status(run_dir: Path) -> dict:
    return json.loads((run_dir / "status.json").read_text())


def test_a_killed_run_is_failed_at_the_step_last_logged(tmp_path: Path) -> None:
    write_status(tmp_path, "running", 3)
    (tmp_path / "metrics.jsonl").write_text('{"step": 4}\n{"step": 7, "eval_loss": 1.0}\n{"step": 8, "lo')
    assert restarts.ending("mpirun", 137, KILLED, tmp_path, True) == Ending(1, SAID, may_restart=True)
    assert status(tmp_path) == {"state": "failed", "step": 7, "reason": SAID}
    write_status(tmp_path, "failed", 9, "rank 0 failed at step 9: its peer is gone")
    restarts.ending("mpirun", 137, KILLED, tmp_path, True)
    assert status(tmp_path) == {"state": "failed", "step": 9, "reason": SAID}


def test_the_status_of_an_earlier_start_is_left_alone(tmp_path: Path) -> None:
    write_status(tmp_path, "preempted", 3)
    assert restarts.ending("mpirun", 137, KILLED, tmp_path, False) == Ending(1, SAID, may_restart=True)
    assert status(tmp_path)["state"] == "preempted"
    restarts.ending("mpirun", 137, KILLED, tmp_path / "never-made", False)


def test_a_status_that_cannot_be_written_keeps_no_reason_back(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    write_status(tmp_path, "running", 3)
    monkeypatch.setattr(restarts, "write_status", refuse)
    assert restarts.ending("mpirun", 137, KILLED, tmp_path, True).reason == SAID


@pytest.mark.parametrize(
    ("launcher", "code", "errors", "state", "expected"),
    [
        ("mpirun", 0, "", "completed", Ending(0)),
        ("torchrun", 1, "", "preempted", Ending(75)),
        ("mpirun", 2, "", None, Ending(2)),
        ("direct", 75, "", None, Ending(75)),
        (
            "horovodrun",
            1,
            "Process name: 0\nExit code: 2\n",
            None,
            Ending(1, "rank 0 ended with exit code 2"),
        ),
        ("direct", 130, "", "running", Ending(1, "the training process ended with exit code 130")),
    ],
)
def test_what_is_not_started_again(tmp_path: Path, launcher, code, errors, state, expected) -> None:
    if state:
        write_status(tmp_path, state, 3)
    assert restarts.ending(launcher, code, errors, tmp_path, bool(state)) == expected


@pytest.mark.parametrize("code", [0, 1])
def test_a_failure_that_would_come_again_is_none_to_repeat(tmp_path: Path, code: int) -> None:
    """0: of a worker that torchrun had started again."""
    write_status(tmp_path, "failed", 5, "step 5: the loss is not finite", would_repeat=True)
    ended = restarts.ending("torchrun", code, "", tmp_path, True)
    assert ended == Ending(1, "step 5: the loss is not finite", may_restart=False)
    assert status(tmp_path)["would_repeat"]


def test_a_launcher_that_was_told_to_end_starts_nothing_again(tmp_path: Path) -> None:
    HEARD.append(signal.SIGINT)
    assert not restarts.ending("mpirun", 137, KILLED, tmp_path, False).may_restart


class Starts:
    """In place of the child: each start makes a checkpoint and is killed, but the last is done."""

    def __init__(self, run_dir: Path, failures: int) -> None:
        self.run_dir, self.failures = run_dir, failures
        self.commands: list[list[str]] = []
        self.told: list[str | None] = []

    def __call__(self, command: list[str], environment: dict, cwd: object = None) -> tuple[int, str]:
        self.commands.append(command)
        self.told.append(os.environ.get(RESTART))
        number = len(self.commands)
        (self.run_dir / "checkpoints" / f"step-{10 * number:08d}").mkdir(parents=True)
        if number > self.failures:
            write_status(self.run_dir, "completed", 60)
            return 0, ""
        write_status(self.run_dir, "running", 10 * number)
        return 137, KILLED


@pytest.mark.parametrize(("failures", "code"), [(1, 0), (2, 0), (5, 1)])
def test_launchers_train_starts_again_what_its_launcher_cannot(
    launch, tmp_path: Path, monkeypatch, failures: int, code: int
) -> None:
    starts = Starts(tmp_path / "run", failures)
    monkeypatch.setattr(train, "run_child", starts)
    monkeypatch.setenv(RESTART, "")
    ended = launch(train, "tf-mirrored", *DIGITS, "--run-dir", tmp_path / "run", "--max-restarts", 2)
    assert ended.code == code
    made = min(failures, 2)
    lines = [
        f"trimaran: restart {number} of 2 from step {10 * number}: {SAID}" for number in range(1, made + 1)
    ]
    assert ended.errors == lines + ([] if code == 0 else [f"trimaran: tf-mirrored failed: {SAID}"])
    assert starts.told == ["", "1 of 2", "2 of 2"][: made + 1]
    assert status(tmp_path / "run")["state"] == ("completed" if code == 0 else "failed")


def test_torchrun_starts_its_workers_again_itself(launch, tmp_path: Path, monkeypatch) -> None:
    starts = Starts(tmp_path / "run", 5)
    monkeypatch.setattr(train, "run_child", starts)
    arguments = ("torch-ddp", *DIGITS, "--run-dir", tmp_path / "run")
    assert launch(train, *arguments, "--max-restarts", 2).code == 1
    (command,) = starts.commands
    assert "--max-restarts=2" in command[: command.index("distributed.torch_ddp")]
    assert "--max-restarts" not in command[command.index("distributed.torch_ddp") :]
    (line,) = launch(train, *arguments[:-1], tmp_path / "other", "--dry-run").output
    assert "restarts" not in line


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--max-restarts", "-1"), "--max-restarts: found -1"),
        (("--max-restarts", "1", "--no-exchange"), "--no-exchange"),
    ],
)
def test_restarts_that_make_no_sense_are_refused(launch, no_process, tmp_path, arguments, named) -> None:
    ended = launch(train, "torch-ddp", *DIGITS, "--run-dir", tmp_path / "run", *arguments)
    assert (ended.code, len(ended.errors)) == (2, 1)
    assert named in ended.errors[0]
