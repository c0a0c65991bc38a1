"""A disk that fills up or turns read-only under a run: one line, the last good checkpoint whole, and on when mended."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.disk import Disk
from tests.faults.runs import WORKERS, Started, assert_same, case, command, long_run

pytestmark = [pytest.mark.timeout(300), pytest.mark.mounts]
STEPS = 60
SIZE_MIB = 40


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of a few checkpoints."""
    made = Disk(tmp_path / "disk", SIZE_MIB)
    yield made
    made.close()


def on(disk: Disk, start, *words: str) -> Started:
    """Start a run on that disk."""
    return start("disk/run", *words, seen=disk.seen / "run", prefix=disk.prefix, screen="screen")


def assert_ended_well(run: Started, words: str) -> None:
    """With 1, with a line of ours that has these words, every checkpoint whole."""
    run.assert_fails()
    assert any(words in line for line in run.told), run.errors
    assert run.saved()
    for step in run.saved():
        assert run.state(step).step == step


def assert_goes_on(run: Started, strategy: str, disk: Disk, start, undisturbed) -> None:
    saved = run.saved()[-1]
    again = on(disk, start, *command(strategy, "--resume"))
    assert again.code() == 0, again.errors
    segments = json.loads((again.run_dir / "run.json").read_text())["segments"]
    assert [segment["first_step"] for segment in segments] == [0, saved]
    assert_same(again, undisturbed(*long_run(strategy, STEPS)))


@pytest.mark.parametrize("strategy", [case(name, quick=name == "torch-ddp") for name in WORKERS])
def test_a_disk_that_fills_up_ends_the_run_and_loses_nothing(
    strategy: str, disk: Disk, start, undisturbed
) -> None:
    run = on(disk, start, *long_run(strategy, STEPS))
    run.wait_for_step(7)
    disk.fill()
    assert_ended_well(run, "No space left on device")
    disk.free()
    assert_goes_on(run, strategy, disk, start, undisturbed)


@pytest.mark.parametrize("strategy", [case(name, quick=name == "torch-single") for name in WORKERS])
def test_a_disk_that_turns_read_only_ends_the_run_and_loses_nothing(
    strategy: str, disk: Disk, start, undisturbed
) -> None:
    run = on(disk, start, *long_run(strategy, STEPS))
    run.wait_for_step(7)
    disk.turn_read_only()
    assert_ended_well(run, "Read-only file system")
    disk.mend()
    assert_goes_on(run, strategy, disk, start, undisturbed)


def test_a_disk_that_is_read_only_from_the_start_is_refused(disk: Disk, start) -> None:
    disk.turn_read_only()
    run = on(disk, start, *long_run("torch-ddp", STEPS))
    assert run.code() == 2, run.errors
    assert len(run.told) == 1, run.errors
    assert "--run-dir" in run.told[0]
