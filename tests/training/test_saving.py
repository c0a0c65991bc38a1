import errno
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.training.states import RECIPE_ID, make_state, put
from training import checkpoint, tensor_file
from training.checkpoint import complete_steps, load_latest
from training.problems import TrainingFailed
from training.saving import Saver
from training.state import State

KILLS = 10
WRITER = """
import sys, numpy as np
from pathlib import Path
from training.saving import Saver
from training.state import State

first, folder = int(sys.argv[1]), Path(sys.argv[2])
saver = Saver(folder, "x", keep=2)
for step in range(first, first + 100_000):
    arrays = {str(i): np.full((64, 1024), step + i, np.float32) for i in range(8)}
    saver.start(State(step, arrays, {}, {"momentum": arrays}), {"eval_loss": 1.0 / step}, wait_s=0.0)
    saver.wait()
    print(step, flush=True)
"""


class Gate:
    """checkpoint.save, which stops before its work until it is let go."""

    def __init__(self, monkeypatch) -> None:
        self.entered, self.let_go = threading.Semaphore(0), threading.Semaphore(0)
        self.running = self.most_running = 0
        self.real = checkpoint.save
        monkeypatch.setattr(checkpoint, "save", self)

    def __call__(self, folder: Path, state: State, **options) -> Path:
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        self.entered.release()
        assert self.let_go.acquire(timeout=10)
        self.running -= 1
        return self.real(folder, state, **options)


def start(saver: Saver, step: int) -> State:
    state = make_state(step)
    saver.start(state, {"tokens": step}, wait_s=0.25)
    return state


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch) -> None:
    gate = Gate(monkeypatch)
    saver = Saver(tmp_path, RECIPE_ID, keep=2)
    assert saver.spare() == State(0, {}, {}, {})
    state = start(saver, 3)
    assert gate.entered.acquire(timeout=10)
    saver.check()  # here training is, while the other thread stands in the gate
    assert saver.ended() == {}
    assert complete_steps(tmp_path) == []
    gate.let_go.release()
    assert saver.spare() is state  # its arrays may be used again, now that they are on the disk
    assert load_latest(tmp_path, RECIPE_ID)[1]["tokens"] == 3
    row = saver.ended()
    assert (row["checkpoint_step"], row["checkpoint_wait_s"]) == (3, 0.25)
    assert 0 < row["checkpoint_write_s"] < 60
    assert saver.ended() == {}


def test_steps_come_first_where_no_core_is_free(tmp_path: Path, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(
        checkpoint,
        "save",
        lambda *_, **__: seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())),
    )
    before = os.getpriority(os.PRIO_PROCESS, 0)
    saver = Saver(tmp_path, RECIPE_ID, keep=2)
    start(saver, 3)
    saver.wait()
    assert seen == [max(10, before)]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_the_writer_rests_while_nothing_waits_for_it(tmp_path: Path, monkeypatch) -> None:
    awaited = []
    monkeypatch.setattr(
        checkpoint, "save", lambda *_, rest, **__: awaited.extend([rest(0.001), rest(30.0), rest(30.0)])
    )
    saver = Saver(tmp_path, RECIPE_ID, keep=2)
    for step in (3, 4):
        start(saver, step)
        time.sleep(0.2)
        asked = time.monotonic()
        saver.wait()
        assert time.monotonic() - asked < 10
    assert awaited == [False, True, True] * 2


@pytest.mark.parametrize("wait", ["spare", "wait", "start"])
def test_one_state_at_most_is_in_flight(tmp_path: Path, monkeypatch, wait: str) -> None:
    gate = Gate(monkeypatch)
    saver = Saver(tmp_path, RECIPE_ID, keep=2)
    start(saver, 3)
    assert gate.entered.acquire(timeout=10)
    threading.Timer(0.05, gate.let_go.release, [2]).start()
    if wait == "start":
        start(saver, 4)
    else:
        getattr(saver, wait)()
    assert complete_steps(tmp_path)[0] == 3  # it was waited for
    saver.wait()
    assert gate.most_running == 1


@pytest.mark.parametrize("told_by", ["check", "wait", "spare", "start"])
def test_a_write_that_fails_is_raised_once_where_training_is(
    tmp_path: Path, monkeypatch, told_by: str
) -> None:
    put(tmp_path, 5)
    saver = Saver(tmp_path, RECIPE_ID, keep=2)

    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tensor_file, "allocate", full)
        start(saver, 9)
        saver._thread.join()
    with pytest.raises(TrainingFailed) as raised:
        start(saver, 10) if told_by == "start" else getattr(saver, told_by)()
    line = str(raised.value)
    free_mib = shutil.disk_usage(tmp_path).free / 2**20
    assert line.startswith(
        f"{tmp_path}/step-00000009: the checkpoint could not be written (No space left on device); "
        "it needs 0.0 MiB, and "
    )
    assert float(line.split("MiB, and ")[1].split(" MiB")[0].replace(",", "")) == pytest.approx(
        free_mib, rel=0.1
    )
    assert line.endswith("lower run.keep_checkpoints, then go on with --resume from step 5")
    assert isinstance(raised.value.__cause__, OSError)
    saver.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]
    start(saver, 11)  # the disk has room again
    saver.wait()
    assert complete_steps(tmp_path) == [5, 11]


def test_a_directory_that_is_no_more_is_told_with_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.write_text("a file")
    saver = Saver(folder, RECIPE_ID, keep=2)
    start(saver, 9)
    with pytest.raises(TrainingFailed, match=r"make that directory writable again, then .* from the start$"):
        saver.wait()


def test_what_is_no_fault_of_the_disk_stays_as_it_is(tmp_path: Path, monkeypatch) -> None:
    error = MemoryError("no memory")

    def broken(*_, **__) -> None:
        raise error

    monkeypatch.setattr(checkpoint, "save", broken)
    saver = Saver(tmp_path, RECIPE_ID, keep=2)
    start(saver, 9)
    with pytest.raises(MemoryError) as raised:
        saver.wait()
    assert raised.value is error
    saver.wait()


def test_a_kill_at_any_moment_loses_the_checkpoint_in_flight_and_no_other(tmp_path: Path) -> None:
    generator = random.Random(7)
    told = 0
    for kill in range(KILLS):
        command = [sys.executable, "-c", WRITER, str(told + 1), str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            told = int(writer.stdout.readline())
            time.sleep(generator.uniform(0, 0.05))
            writer.kill()
            told = max([told, *map(int, writer.stdout.read().split())])
        state, manifest, skipped = load_latest(tmp_path, "x")
        assert skipped == [], f"kill {kill}"
        assert state.step in (told, told + 1), f"kill {kill}"
        assert (state.parameters["7"] == state.step + 7).all()
        assert manifest["eval_loss"] == 1.0 / state.step
        told = state.step
    assert len(complete_steps(tmp_path)) >= 2
    checkpoint.sweep(tmp_path)
    assert all(path.name.startswith("step-") for path in tmp_path.iterdir())
