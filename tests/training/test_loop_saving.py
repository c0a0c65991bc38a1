"""Checkpoints in a run: written beside the steps, awaited at the end, and none lost by a resume."""

import errno
import json
import os
import threading
import time
from pathlib import Path

import pytest

from telemetry.progress import Progress
from telemetry.run_log import read_rows
from training import checkpoint, tensor_file
from training.checkpoint import complete_steps, load
from training.state import State
from training.world import World


def manifest(run_dir: Path, step: int) -> dict:
    return load(run_dir / "checkpoints" / f"step-{step:08d}")[1]


def status(run_dir: Path) -> dict:
    return json.loads((run_dir / "status.json").read_text())


def test_steps_are_taken_while_a_checkpoint_is_written(train_tiny, tmp_path: Path, monkeypatch) -> None:
    reached, real = threading.Event(), checkpoint.save

    def save(folder: Path, state: State, **options) -> Path:
        if state.step == 3:
            assert reached.wait(10), "step 5 waits for the checkpoint of step 3"
        assert status(tmp_path / "run")["state"] == "running"  # until the last one is written
        return real(folder, state, **options)

    def hook(step: int) -> None:
        if step == 5:
            reached.set()

    monkeypatch.setattr(checkpoint, "save", save)
    code, fake = train_tiny("run.checkpoint_every=3", "run.keep_checkpoints=9", hook=hook)
    assert code == 0
    assert complete_steps(tmp_path / "run" / "checkpoints") == [3, 6, 9, 10]
    assert [state.step for state in fake.given] == [0, 3, 6, 9]  # the arrays of the one before are used again
    timing = [row for row in read_rows(tmp_path / "run" / "timing-0.jsonl") if "checkpoint_step" in row]
    assert timing[0]["checkpoint_step"] == 3
    for row in timing:
        assert row["checkpoint_step"] < row["step"]
        assert min(row["checkpoint_wait_s"], row["checkpoint_write_s"]) > 0


def test_the_manifest_says_where_it_was_evaluated_and_the_best_is_kept(
    train_tiny, tmp_path: Path, monkeypatch
) -> None:
    def evaluate(fake, feed):
        count = sum(1.0 for _ in feed)
        return {3: 5.0, 6: 2.0, 9: 7.0, 10: float("nan")}[fake.now.step] * count, 0.0, count

    _, fake = train_tiny("steps=1", name="other")
    monkeypatch.setattr(type(fake), "evaluate", evaluate)
    assert train_tiny("run.checkpoint_every=1", "run.eval_every=3")[0] == 0
    run_dir = tmp_path / "run"
    assert complete_steps(run_dir / "checkpoints") == [6, 9, 10]
    assert [manifest(run_dir, step)["eval_loss"] for step in (6, 9, 10)] == [2.0, 7.0, None]
    assert (manifest(run_dir, 6)["step"], manifest(run_dir, 6)["tokens"] > 0) == (6, True)


@pytest.mark.parametrize(("failing", "steps_taken"), [(6, 8), (10, 10)])
def test_a_full_disk_ends_the_run_in_one_line_with_the_last_good_checkpoint(
    train_tiny, tmp_path: Path, monkeypatch, capsys, failing: int, steps_taken: int
) -> None:
    """In the middle, where the next step finds it out, and at the end, which must not be told as completed."""
    real = tensor_file.allocate

    def allocate(handle: int, num_bytes: int) -> None:
        if f".writing-{failing:08d}" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle, num_bytes)

    def hook(step: int) -> None:
        while step == 8 and any(thread.name == "saving" for thread in threading.enumerate()):
            time.sleep(0.001)

    monkeypatch.setattr(tensor_file, "allocate", allocate)
    code, fake = train_tiny("run.checkpoint_every=3", hook=hook)
    run_dir = tmp_path / "run"
    assert code == 1
    assert status(run_dir)["state"] == "failed"
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("trimaran: ")]
    assert f"step-{failing:08d}: the checkpoint could not be written (No space left on device)" in line
    good = [step for step in (3, 6, 9) if step < failing][-2:]
    assert f"go on with --resume from step {good[-1]}" in line
    assert len(fake.calls) == steps_taken
    names = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert names == [f"step-{step:08d}" for step in good]
    monkeypatch.undo()
    assert train_tiny(resume=True)[0] == 0
    assert status(run_dir)["state"] == "completed"


def test_a_run_that_fails_still_ends_the_write_in_flight(train_tiny, tmp_path: Path, monkeypatch) -> None:
    real, crashed = checkpoint.save, threading.Event()

    def save(folder: Path, state: State, **options) -> Path:
        assert crashed.wait(10)
        return real(folder, state, **options)

    def crash(step: int) -> None:
        if step == 5:
            crashed.set()
            raise RuntimeError("the device is gone")

    monkeypatch.setattr(checkpoint, "save", save)
    assert train_tiny("run.checkpoint_every=4", hook=crash)[0] == 1
    assert complete_steps(tmp_path / "run" / "checkpoints") == [4]
    assert "the device is gone" in status(tmp_path / "run")["reason"]


def test_damaged_checkpoints_do_not_push_out_what_is_saved_after_them(
    train_tiny, tmp_path: Path, monkeypatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(Progress, "message", lambda self, line: shown.append(line))
    train_tiny("run.checkpoint_every=2", "run.keep_checkpoints=3", stop_after=6)
    folder = tmp_path / "run" / "checkpoints"
    for step in (4, 6):
        (folder / f"step-0000000{step}" / "manifest.json").write_text("{}")
    (folder / ".writing-00000007").mkdir()
    (folder / ".deleting-step-00000001").mkdir()

    def hook(step: int) -> None:
        assert not list(folder.glob(".*")), "swept away at the start already: the disk may be full of them"

    assert train_tiny(resume=True, stop_after=3, hook=hook)[0] == 75
    assert sorted(path.name for path in folder.iterdir()) == [
        *("set-aside-step-00000004", "set-aside-step-00000006", "step-00000002", "step-00000003")
    ]
    aside = [line for line in shown if "set aside as" in line]
    assert len(aside) == 2
    assert "the run goes on from step 2" in aside[0]
    assert train_tiny(resume=True)[0] == 0
    assert complete_steps(folder) == [6, 8, 10]


def test_other_processes_change_nothing_among_the_checkpoints(train_tiny, tmp_path: Path) -> None:
    train_tiny("run.checkpoint_every=2", stop_after=6)
    folder = tmp_path / "run" / "checkpoints"
    (folder / "step-00000006" / "manifest.json").write_text("{}")
    (folder / ".writing-00000007").mkdir()
    before = sorted(folder.rglob("*"))
    assert train_tiny(resume=True, accumulation=1, world=World(1, 1, 2, 2, (1,), "torchrun"))[0] == 0
    assert sorted(folder.rglob("*")) == before


def test_opening_a_run_writes_nothing(train_tiny, open_tiny, tmp_path: Path) -> None:
    """A launcher opens it to look; another start may be training in it."""
    train_tiny("run.checkpoint_every=2", stop_after=6)
    folder = tmp_path / "run" / "checkpoints"
    (folder / "step-00000006" / "manifest.json").write_text("{}")
    (folder / ".writing-00000007").mkdir()
    before = sorted(folder.rglob("*"))
    assert open_tiny(resume=True).start.step == 4
    assert sorted(folder.rglob("*")) == before
