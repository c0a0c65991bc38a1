"""--profile: which steps, what is marked in them, and that a training never suffers from it."""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from telemetry.run_log import read_rows
from tests.training.conftest import Fake
from training.loop import train
from training.problems import EXIT_FAILED, UsageError
from training.profiling import profiled_steps
from training.stopping import Watch
from training.trace import COMPUTE, END, INPUT, MARK, PLACE, STEP, Event, Lane
from training.world import World

LONG = ("steps=20", "run.log_every=4")


class FakeTracer:
    """Counts up a second a mark. `fails` names the method that does."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.calls, self.events, self.now_s = fails, [], [], 0.0

    def begin(self, name: str) -> None:
        self.calls.append(name)
        if self.fails == name:
            raise RuntimeError("CUPTI is taken\nby another")

    def start(self, folder: Path, rank: int) -> None:
        self.folder = folder
        self.begin("start")

    def mark(self, name: str) -> AbstractContextManager:
        @contextmanager
        def marked():
            begin_s = self.now_s
            self.now_s += 1.0
            yield
            self.calls.append(name)
            self.events.append(Event(MARK, name, "main", begin_s, self.now_s))

        return marked()

    def stop(self) -> None:
        self.begin("stop")

    def lanes(self) -> list[Lane]:
        self.begin("lanes")
        return [Lane("cpu", 1, [*self.events, Event(COMPUTE, "multiply", "main", 2.0, 2.5)])]


@pytest.fixture
def profile_tiny(open_tiny) -> Callable:
    """Train under --profile with this tracer; returns the exit code, the strategy and the tracer."""

    def profile_it(*overrides: str, tracer=None, hook=lambda step: None, **options):
        tracer = tracer or FakeTracer()
        fake = Fake(open_tiny(*LONG, *overrides, profile=True, **options), hook)
        fake.strategy.tracer = tracer
        return train(fake.run, fake.strategy, Watch()), fake, tracer

    return profile_it


@pytest.mark.parametrize(
    ("first", "last", "disturbed", "expected"),
    [
        (0, 20, {20}, range(11, 16)),
        (0, 16, {16}, range(11, 16)),
        (0, 15, {15}, range(0)),  # a checkpoint follows the last one
        (0, 15, set(), range(11, 16)),
        (40, 60, {60}, range(51, 56)),  # resumed
        (0, 30, {12, 16, 30}, range(17, 22)),
        (0, 100, set(range(0, 101, 5)), range(0)),
        (0, 100, set(range(0, 101, 6)), range(13, 18)),
        (0, 5, {5}, range(0)),
    ],
)
def test_the_steps_follow_from_their_numbers_alone(first, last, disturbed, expected) -> None:
    assert profiled_steps(first, last, disturbed.__contains__) == expected


def test_five_steps_are_traced_and_their_rows_say_so(profile_tiny, capfd) -> None:
    code, fake, tracer = profile_tiny()
    assert code == 0
    steps = [name for number in range(5) for name in (INPUT, PLACE, STEP)]
    assert tracer.calls == ["start", *steps, END, "stop", "lanes"]
    for name in ("timing-0", "metrics"):
        rows = [row for row in read_rows(fake.run.run_dir / f"{name}.jsonl") if "step_time_s" in row]
        assert [row["step"] for row in rows] == [1, 4, 8, 10, 12, 15, 16, 20]
        assert [row["step"] for row in rows if row.get("profiled")] == [12, 15]
    folder = fake.run.run_dir / "profile"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["first_step"], summary["last_step"], summary["missing_ranks"]) == (11, 15, [])
    assert summary["devices"][0]["step_time_s"] == 3.0  # a second a mark
    told = capfd.readouterr().err
    assert (folder / "summary.txt").read_text() in told
    assert "multiply" in told


def test_the_start_and_the_end_of_a_trace_are_in_no_row(profile_tiny) -> None:
    class SlowTracer(FakeTracer):
        def begin(self, name: str) -> None:
            time.sleep(0.5)
            super().begin(name)

    _, fake, _ = profile_tiny(tracer=SlowTracer())
    rows = read_rows(fake.run.run_dir / "timing-0.jsonl")
    assert sum(row["steps"] * row["step_time_s"] for row in rows if row["step"] > 10) < 0.5


def test_without_it_nothing_is_traced_waited_for_or_written(train_tiny, profile_tiny) -> None:
    _, plain = train_tiny(*LONG, name="plain")
    assert not (plain.run.run_dir / "profile").exists()
    assert [row["step"] for row in read_rows(plain.run.run_dir / "timing-0.jsonl")] == [1, 4, 8, 12, 16, 20]
    _, traced, _ = profile_tiny(name="traced")
    losses = [
        {row["step"]: row["loss"] for row in read_rows(fake.run.run_dir / "metrics.jsonl") if "loss" in row}
        for fake in (plain, traced)
    ]
    assert losses[0].items() <= losses[1].items()


def test_a_run_that_is_too_short_says_so_in_one_line(profile_tiny, capfd) -> None:
    code, fake, tracer = profile_tiny("steps=15")
    assert (code, tracer.calls) == (0, [])
    lines = [line for line in capfd.readouterr().err.splitlines() if "profile" in line]
    assert lines == [
        "trimaran: --profile: no profile: found no 5 steps in a row among steps 11 to 15 without an evaluation or a "
        "checkpoint; train for more steps"
    ]
    assert not (fake.run.run_dir / "profile").exists()


def test_a_resumed_run_profiles_behind_its_own_warm_up(profile_tiny) -> None:
    profile_tiny("steps=40", stop_after=18)
    _, fake, tracer = profile_tiny(resume=True)
    summary = json.loads((fake.run.run_dir / "profile" / "summary.json").read_text())
    assert (summary["first_step"], summary["last_step"]) == (29, 33)
    assert tracer.calls.count("start") == 1


@pytest.mark.parametrize("fails", ["start", "stop", "lanes"])
def test_a_profiler_that_fails_is_one_line_and_the_run_ends_as_it_would_have(
    fails, profile_tiny, capfd
) -> None:
    code, fake, _ = profile_tiny(tracer=FakeTracer(fails))
    assert code == 0
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("trimaran: --profile")]
    assert told == ["trimaran: --profile: rank 0 has none: RuntimeError: CUPTI is taken"]
    summary = json.loads((fake.run.run_dir / "profile" / "summary.json").read_text())
    assert (summary["missing_ranks"], summary["devices"]) == ([0], [])


def test_a_run_that_fails_while_it_is_traced_fails_for_its_own_reason(profile_tiny, capfd) -> None:
    code, _, tracer = profile_tiny(hook=lambda step: (float("nan"), 1.0) if step == 12 else None)
    assert code == EXIT_FAILED
    assert tracer.calls[-2:] == [END, "stop"]
    assert "the run ended within steps 11 to 15: no summary of them" in capfd.readouterr().err


def test_a_rank_that_is_not_the_first_writes_its_part_alone(profile_tiny) -> None:
    _, fake, _ = profile_tiny(world=World(1, 1, 2, 2, (1,), "torchrun"))
    assert {path.name for path in (fake.run.run_dir / "profile").iterdir()} == {"rank-1.json"}


def test_verification_is_not_profiled(open_tiny, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--profile: traces training, found --replay-from"):
        open_tiny(profile=True, replay_from=tmp_path)
