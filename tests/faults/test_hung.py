"""A rank that no longer moves: the others end in a bounded time and name it; one that moves again is waited for."""

import re
import signal
import time

import pytest

from tests.faults.runs import (
    PROCESSES,
    assert_same,
    case,
    command,
    each_strategy,
    long_run,
    stop_process,
)
from tests.planting import planted

pytestmark = pytest.mark.timeout(300)
TIMEOUT_S = 8
LIMIT = ("--hang-timeout-s", str(TIMEOUT_S))
STEPS = 40
SEVERAL = ("torch-ddp", "torch-horovod", "tf-horovod")
ENDS_S = 60


def hung(strategy: str, *more: str) -> tuple[str, ...]:
    name, kind, *rest = long_run(strategy, STEPS)
    return (name, kind, *LIMIT, *more, *rest)


@pytest.mark.parametrize(
    ("strategy", "rank"),
    [
        case(name, rank, quick=(name, rank) == ("torch-ddp", 1), name=f"{name}-{rank}")
        for name in SEVERAL
        for rank in (0, 1)
    ],
)
def test_a_stopped_rank_is_named_and_the_run_ends(strategy: str, rank: int, start, undisturbed) -> None:
    run = start("run", *hung(strategy))
    run.wait_for_step(7)
    stop_process(run.ranks()[rank])
    stopped = time.monotonic()
    run.assert_fails(TIMEOUT_S + ENDS_S)
    assert time.monotonic() - stopped > TIMEOUT_S - 2
    assert f"waits for rank {rank} (stopped" in run.errors
    assert run.status()["state"] == "failed"
    assert f"rank {rank}" in run.status()["reason"]
    for number in range(PROCESSES[strategy]):
        text = (run.run_dir / f"stacks-{number}.txt").read_text()
        assert ("could not write its own stacks" if number == rank else "most recent call first") in text
    again = start("run", *command(strategy, "--resume"))
    assert again.code() == 0, again.errors
    assert_same(again, undisturbed(*long_run(strategy, STEPS)))


@each_strategy("torch-ddp")
def test_a_rank_that_goes_on_in_time_is_forgiven(strategy: str, start, undisturbed) -> None:
    """As a laptop's lid, a debugger or a burst of swapping has it."""
    run = start("run", *hung(strategy))
    run.wait_for_step(7)
    rank = run.ranks()[PROCESSES[strategy] - 1]
    stop_process(rank)
    time.sleep(TIMEOUT_S / 2)
    assert len(run.rows()) < STEPS
    rank.send_signal(signal.SIGCONT)
    assert run.code() == 0, run.errors
    assert not list(run.run_dir.glob("stacks-*"))
    assert_same(run, undisturbed(*long_run(strategy, STEPS)))


NEVER = """
def plant(feed):
    whole = feed.training_feed
    def never_ends(run, first_step, num_steps):
        for step, batches in enumerate(whole(run, first_step, num_steps), start=first_step + 1):
            while step == 8:
                time.sleep(0.1)
            yield batches
    feed.training_feed = never_ends
PLANTS = {"training.feed": plant} if RANK in ("", "1") else {}
"""
"""The data of step 8 never come: on rank 1, or in the one process that there is."""


@each_strategy("torch-single")
def test_data_that_never_come_leave_the_stacks_of_every_rank(strategy: str, start, tmp_path) -> None:
    run = start("run", *hung(strategy), environment=planted(tmp_path, NEVER))
    run.assert_fails(TIMEOUT_S + ENDS_S + 60)
    last = PROCESSES[strategy] - 1
    assert re.search(r"no progress for \d+ s at step 7", run.errors), run.errors
    assert last == 0 or f"waits for rank {last} (waiting for data at step 7" in run.errors, run.errors
    for number in range(PROCESSES[strategy]):
        assert "most recent call first" in (run.run_dir / f"stacks-{number}.txt").read_text()
    assert "never_ends" in (run.run_dir / f"stacks-{last}.txt").read_text()
    assert run.status()["state"] == "failed"
