"""kill -9 of a rank, of a launcher and of what it started: nothing is left behind, and nothing is lost."""

import random
import time

import psutil
import pytest

from tests.faults.runs import (
    LAUNCHERS,
    PROCESSES,
    WORKERS,
    Started,
    assert_same,
    case,
    command,
    drawn,
    long_run,
)

pytestmark = pytest.mark.timeout(300)
STEPS, EVERY = 60, 3
SEEDS = 25
QUICK_SEEDS = (4,)
LOADERS = ("--set", "performance.loader_workers=1")
HOROVODRUN = ("--launcher", "horovodrun")


def resume(strategy: str, *more: str) -> tuple[str, ...]:
    return command(strategy, "--resume", *more)


def seeded(seed: int):
    """Seeds go round the strategies."""
    strategy = list(WORKERS)[seed % len(WORKERS)]
    return case(strategy, seed, quick=seed in QUICK_SEEDS, name=f"{strategy}-{seed}")


@pytest.mark.parametrize(("strategy", "seed"), [seeded(seed) for seed in range(SEEDS)])
def test_a_rank_that_is_killed_costs_the_steps_since_the_last_checkpoint_and_no_more(
    strategy: str, seed: int, start, undisturbed
) -> None:
    dice = drawn(seed)
    rank, step = dice.randrange(PROCESSES[strategy]), dice.randrange(EVERY, STEPS - 10)
    run = start("run", *long_run(strategy, STEPS, EVERY))
    run.wait_for_step(step)
    time.sleep(dice.random() / 10)
    run.ranks()[rank].kill()
    assert "SIGKILL" in run.assert_fails()
    assert f"rank {rank} ended with signal SIGKILL" in run.told[-1] or PROCESSES[strategy] == 1
    assert run.saved()[-1] >= step - step % EVERY - EVERY
    for saved in run.saved():
        assert run.state(saved).step == saved
    again = start("run", *resume(strategy))
    assert again.code() == 0, again.errors
    assert_same(again, undisturbed(*long_run(strategy, STEPS, EVERY)))


def ended_by_killing(run: Started, process: psutil.Process) -> None:
    """Every loader, sampler, rank and helper goes when this one does."""
    assert len(run.processes()) > 1
    process.kill()
    run.assert_gone()
    run.launcher.wait(5)


KILLED = [
    case("torch-single", ()),
    case("torch-ddp", (), quick=True),
    case("torch-horovod", ()),
    case("torch-horovod", HOROVODRUN, name="torch-horovod-horovodrun"),
    case("tf-single", ()),
    case("tf-mirrored", ()),
    case("tf-horovod", ()),
    case("tf-horovod", HOROVODRUN, name="tf-horovod-horovodrun"),
]


@pytest.mark.parametrize(("strategy", "launcher"), KILLED)
def test_no_process_outlives_launchers_train(strategy: str, launcher: tuple[str, ...], start) -> None:
    run = start("run", *long_run(strategy), *LOADERS[1:], *launcher)
    run.wait_for_step(4)
    ended_by_killing(run, psutil.Process(run.launcher.pid))
    again = start("run", *resume(strategy, *launcher, "--stop-after", str(run.saved()[-1] + 5)))
    assert again.code() == 75, again.errors


@pytest.mark.parametrize(("strategy", "launcher"), [each for each in KILLED if each.values[0] in LAUNCHERS])
def test_no_process_outlives_torchrun_or_mpirun(strategy: str, launcher: tuple[str, ...], start) -> None:
    run = start("run", *long_run(strategy), *LOADERS[1:], *launcher)
    run.wait_for_step(4)
    (theirs,) = psutil.Process(run.launcher.pid).children()
    ended_by_killing(run, theirs)
    assert run.launcher.returncode == 1
    assert run.told[-1].startswith(f"trimaran: {strategy} failed: ")
    assert "Traceback" not in run.told[-1]


WIDE = "model.width=24"
"""A state that takes a moment to be written."""


@pytest.mark.parametrize(
    ("strategy", "times"),
    [
        case("torch-single", 3, quick=True, name="torch-single-3-times"),
        case("torch-single", 20, name="torch-single-20-times"),
        case("torch-ddp", 5),
        case("tf-mirrored", 5),
    ],
)
@pytest.mark.timeout(600)
def test_a_checkpoint_is_there_whole_or_not_at_all(strategy: str, times: int, start, undisturbed) -> None:
    """Killed within a checkpoint, again and again, the run gets to its end all the same."""
    steps, dice, within = times + 20, drawn(times), 0
    words = (*long_run(strategy, steps, 1), *((WIDE,) if strategy.startswith("torch") else ()))
    for number in range(times):
        run = start("run", *(resume(strategy) if number else words))
        first = run.saved()[-1] if run.saved() else 0
        run.wait_for(lambda run=run, first=first: run.saved() and run.saved()[-1] > first)
        within += killed_while_writing(run, dice)
        run.launcher.wait(30)
        run.assert_gone()
        assert run.saved()[-1] > first
        for saved in run.saved():
            assert run.state(saved).step == saved
    assert within, "no kill met a checkpoint"
    again = start("run", *resume(strategy))
    assert again.code() == 0, again.errors
    assert_same(again, undisturbed(*words))
    assert not list(again.run_dir.glob("checkpoints/.*"))


def killed_while_writing(run: Started, dice: random.Random) -> bool:
    """Kill rank 0 a moment after a temporary directory has appeared; whether one was left."""
    rank, folder = run.ranks()[0], run.run_dir / "checkpoints"
    end = time.monotonic() + 5
    while time.monotonic() < end and run.launcher.poll() is None:
        if any(folder.glob(".writing-*")):
            time.sleep(dice.random() * 0.004)
            break
    rank.kill()
    return any(folder.glob(".*ing-*"))
