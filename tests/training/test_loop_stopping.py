"""What the loop makes of a warning of pre-emption."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from telemetry.run_log import read_rows
from training import checkpoint
from training.stopping import Watch

REASON = "SIGUSR2: stopped with a checkpoint, to go on with --resume"


@pytest.fixture
def watch() -> Watch:
    """A watch that may end nothing."""
    return Watch(end=lambda code: pytest.fail(f"ended with {code}"))


def at(step: int, watch: Watch, number: int = signal.SIGUSR2):
    """A hook for the strategy: the signal comes in the middle of this step."""
    return lambda current: watch.hear(number) if current == step else None


def status(run_dir: Path) -> dict:
    return json.loads((run_dir / "status.json").read_text())


def losses(run_dir: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_rows(run_dir / "metrics.jsonl") if "loss" in row]


def test_a_warned_run_reports_and_saves_the_next_step_and_stops(train_tiny, watch, tmp_path: Path) -> None:
    code, fake = train_tiny("run.log_every=10", hook=at(4, watch), watch=watch)
    assert code == 75
    assert status(tmp_path / "run") == {"state": "preempted", "step": 5, "reason": REASON}
    assert checkpoint.complete_steps(tmp_path / "run" / "checkpoints") == [5]
    assert [step for step, _ in losses(tmp_path / "run")] == [1, 5]
    assert [report for _, report in fake.calls] == [True, False, False, False, True]


def test_resumed_it_is_the_run_that_was_never_stopped(train_tiny, watch, tmp_path: Path) -> None:
    _, whole = train_tiny(name="whole")
    assert train_tiny(name="parts", hook=at(4, watch), watch=watch)[0] == 75
    code, parts = train_tiny(name="parts", resume=True)
    assert (code, len(parts.calls)) == (0, 5)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    for name, value in whole.now.parameters.items():
        np.testing.assert_array_equal(parts.now.parameters[name], value)


@pytest.mark.parametrize("step", [9, 10])
def test_a_run_that_is_nearly_done_is_completed(train_tiny, watch, tmp_path: Path, step: int) -> None:
    assert train_tiny(hook=at(step, watch), watch=watch)[0] == 0
    assert status(tmp_path / "run") == {"state": "completed", "step": 10, "reason": None}


def test_a_stop_that_was_asked_for_comes_no_later(train_tiny, watch, tmp_path: Path) -> None:
    assert train_tiny(hook=at(6, watch), watch=watch, stop_after=6)[0] == 75
    assert status(tmp_path / "run") == {"state": "preempted", "step": 6, "reason": "--stop-after 6"}


def test_a_checkpoint_that_is_due_anyway_is_written_once(train_tiny, watch, tmp_path: Path) -> None:
    intervals = ("run.checkpoint_every=2", "run.keep_checkpoints=9")
    assert train_tiny(*intervals, hook=at(5, watch), watch=watch)[0] == 75
    assert checkpoint.complete_steps(tmp_path / "run" / "checkpoints") == [2, 4, 6]


def test_verification_has_no_step_to_stop_at(train_tiny, tmp_path: Path) -> None:
    train_tiny("run.checkpoint_every=1", "run.keep_checkpoints=99", name="reference")
    ended: list[int] = []
    watch = Watch(end=ended.append)
    hook = at(2, watch, signal.SIGTERM)
    assert train_tiny(hook=hook, watch=watch, replay_from=tmp_path / "reference")[0] == 0
    assert ended == [143, 143]  # each of the two would have been the end at once: in the run, in its replay


@pytest.mark.parametrize("warned", [[1], [0], [0, 1, 2]])
def test_all_ranks_stop_at_one_step_whoever_is_warned(train_together, tmp_path: Path, warned) -> None:
    watches = [Watch(end=lambda code: pytest.fail(f"ended with {code}")) for _ in range(3)]
    hooks = [
        at(40 + rank, watch) if rank in warned else lambda step: None for rank, watch in enumerate(watches)
    ]
    # As many steps as exchanges can be apart, however fast this machine is.
    results = train_together("steps=1100", "run.log_every=1100", hooks=hooks, watches=watches)
    assert [code for code, _ in results] == [75, 75, 75]
    (stopped,) = {fake.now.step for _, fake in results}
    assert 40 < stopped <= 1042
    assert status(tmp_path / "run") == {"state": "preempted", "step": stopped, "reason": REASON}
    assert checkpoint.complete_steps(tmp_path / "run" / "checkpoints") == [stopped]


class Noting(Watch):
    """A watch that notes its phases, and how long the next sign of progress may take: "long" or "short"."""

    def __init__(self) -> None:
        super().__init__()
        self.signs: list[str] = []

    def begin(self) -> None:
        """The first step compiles."""
        self.signs.append("begin")

    def enter(self, phase: str) -> None:
        """What now comes may take long."""
        self.signs.append(phase)

    def progress(self, next_takes_long: bool = False) -> None:
        """One more."""
        self.signs.append("long" if next_takes_long else "short")


def test_steps_evaluation_batches_and_saves_are_signs_of_progress(train_tiny) -> None:
    watch = Noting()
    train_tiny("steps=4", "run.checkpoint_every=3", watch=watch)
    batches = -(-359 // 48)
    assert watch.signs == [
        *("preparing", "begin", "short", "short"),
        *("saving", "long"),  # until the step after that, for which all wait
        "evaluating",
        *["short"] * batches,
        *("saving", "long", "leaving the group"),
    ]


def test_the_watch_knows_the_step_and_whether_data_is_waited_for(train_tiny) -> None:
    watch, seen = Watch(), []

    def note(step: int) -> None:
        seen.append((step, watch.step, watch.phase))

    train_tiny("steps=3", hook=note, watch=watch)
    assert seen == [(1, 0, "in a step"), (2, 1, "in a step"), (3, 2, "in a step")]
    assert (watch.step, watch.phase) == (3, "leaving the group")
    feed = watch.fed(note_phase(watch) for _ in range(2))
    assert [(given, watch.phase) for given in feed] == [("waiting for data", "in a step")] * 2


def note_phase(watch: Watch) -> str:
    return watch.phase


def test_a_second_signal_ends_at_once_and_the_status_says_at_which_step(train_tiny, tmp_path: Path) -> None:
    """The watch here does not end the process, so the run goes on to its agreed stop."""
    now_s, seen = [0.0], []
    watch = Watch(end=lambda code: seen.append((code, status(tmp_path / "run"))), clock=lambda: now_s[0])

    def hook(step: int) -> None:
        if step == 4:
            watch.belongs_to(tmp_path / "run", 3, is_main=True)
            for later_s in (0.0, 1.0, 0.1):  # the second is the same warning yet
                now_s[0] += later_s
                watch.hear(signal.SIGINT)

    assert train_tiny(hook=hook, watch=watch)[0] == 75
    reason = "SIGINT twice: ended at once at step 3; go on with --resume"
    assert seen == [(130, {"state": "failed", "step": 3, "reason": reason})]
    watch.hear(signal.SIGINT)  # now nothing is left to stop
    assert len(seen) == 1
    assert status(tmp_path / "run")["state"] == "preempted"
