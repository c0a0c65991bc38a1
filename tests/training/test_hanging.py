import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from telemetry.run_log import write_status
from training import hanging, signs
from training.hanging import SHORTEST_S, Watchdog, from_outside, longest_s
from training.stopping import Watch

TIMEOUT_S = 8.0


class Clock:
    """Time that passes when it is told to, or when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Rank:
    """One rank of a run, with a clock of its own."""

    def __init__(self, run_dir: Path, rank: int, num_processes: int) -> None:
        self.clock, self.codes = Clock(), []
        self.watch = Watch(clock=self.clock)
        self.dog = Watchdog(
            run_dir,
            rank,
            num_processes,
            TIMEOUT_S,
            self.watch,
            self.codes.append,
            self.clock,
            self.clock.sleep,
        )
        self.watch.step = 7
        self.dog.begin()

    def train(self) -> None:
        """Into the middle of the step after step 7."""
        self.watch.begin()
        next(self.watch.fed(iter([None])))
        self.watch.progress()

    def after(self, seconds: float) -> list[int]:
        """What it has ended with, after looks a second apart."""
        while seconds > 0 and not self.codes:
            self.clock.now_s += min(seconds, 1)
            self.dog.look()
            seconds -= 1
        return self.codes


@pytest.fixture
def alone(tmp_path: Path) -> Rank:
    """A process with nobody to wait for, in a step."""
    rank = Rank(tmp_path, 0, 1)
    rank.train()
    return rank


@pytest.fixture
def stopped() -> Iterator[subprocess.Popen]:
    """A process that a SIGSTOP has stopped."""
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"], stdin=-1, stdout=-1
    ) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        yield process
        process.kill()


def status(run_dir: Path) -> dict:
    return json.loads((run_dir / "status.json").read_text())


def test_without_progress_stacks_are_written_and_the_run_ends_with_a_line(alone, tmp_path, capfd) -> None:
    assert alone.after(TIMEOUT_S - 0.5) == []
    assert alone.after(1) == [1]
    line = capfd.readouterr().err.removeprefix("trimaran: ").removesuffix("\n")
    assert line == (
        "rank 0: no progress for 12 s at step 7 (in a step); "
        f"stacks in {tmp_path}/stacks-*.txt; go on with --resume, or raise --hang-timeout-s"
    )
    assert status(tmp_path) == {"state": "failed", "step": 7, "reason": line}
    assert (tmp_path / "failure-0.txt").read_text().splitlines()[0] == line
    stacks = (tmp_path / "stacks-0.txt").read_text()
    assert stacks.startswith("rank 0: no progress for 8 s at step 7 (in a step)\n")
    assert "test_without_progress_stacks_are_written_and" in stacks  # the main thread is here


def test_progress_and_what_was_only_slow_end_nothing(alone, tmp_path: Path) -> None:
    for _ in range(5):
        assert alone.after(TIMEOUT_S - 0.5) == []
        alone.watch.progress()
    alone.clock.sleep, calls = lambda seconds: (calls.append(seconds), alone.watch.progress()), []
    alone.dog._sleep = alone.clock.sleep
    assert alone.after(TIMEOUT_S + 1) == []
    assert calls == [alone.dog.grace_s]
    assert not (tmp_path / "status.json").exists()


def test_a_process_that_was_itself_stopped_is_not_at_its_end(alone) -> None:
    alone.clock.now_s += 3600  # Ctrl-Z, and fg an hour later
    alone.dog.look()
    assert alone.after(TIMEOUT_S - 1) == []
    assert alone.after(2) == [1]


def test_what_takes_long_by_nature_gets_five_times_as_long_up_to_ten_minutes(alone) -> None:
    assert [longest_s(seconds) for seconds in (5, 100, 120, 600, 3600)] == [25, 500, 600, 600, 3600]
    for phase in ("evaluating", "saving"):
        alone.watch.enter(phase)
        assert alone.after(5 * TIMEOUT_S - 1) == []
    assert alone.after(2) == [1]


def test_a_peer_that_never_joins_is_named(tmp_path: Path, capfd) -> None:
    rank = Rank(tmp_path, 0, 3)
    rank.watch.belongs_to(tmp_path, 0, is_main=True)
    signs.write(tmp_path / signs.FOLDER, replace(signs.own(2, 0, signs.PHASES[0]), machine="another"))
    old_s = time.time() - 60
    signs.write(tmp_path / signs.FOLDER, signs.own(1, 500, "in a step"))
    os.utime(tmp_path / signs.FOLDER / "1.json", (old_s, old_s))  # of an earlier start
    assert rank.after(5 * TIMEOUT_S + 1) == [1]
    line = capfd.readouterr().err
    assert "no progress for 44 s at step 0 (starting): waits for rank 1 (no sign of life since" in line
    assert "rank 2" not in line
    assert "; start again, or" in line


def test_a_rank_that_is_stopped_is_named_described_and_ended(tmp_path: Path, stopped, capfd) -> None:
    rank = Rank(tmp_path, 0, 2)
    rank.train()
    birth = signs.birth(stopped.pid)
    peer = replace(signs.own(1, 7, "in a step"), pid=stopped.pid, born=birth, host="here")
    signs.write(tmp_path / signs.FOLDER, peer)
    assert rank.after(TIMEOUT_S + 1) == [1]
    assert f": waits for rank 1 (stopped; host here, pid {stopped.pid}, last" in capfd.readouterr().err
    stacks = (tmp_path / "stacks-1.txt").read_text()
    assert stacks.startswith(
        f"rank 1 (host here, pid {stopped.pid}) could not write its own stacks; what the"
    )
    assert f"thread {stopped.pid} (" in stacks
    assert "state T, wchan " in stacks
    assert stopped.wait(10) == -signal.SIGKILL
    assert "rank 1: in a step at step 7, host here" in (tmp_path / "failure-0.txt").read_text()


def test_of_what_cannot_be_seen_that_is_said() -> None:
    sign = signs.own(1, 7, "in a step")
    assert from_outside(replace(sign, machine="another")).endswith("of which nothing can be seen from here\n")
    assert from_outside(replace(sign, born="1")).endswith("the process is gone\n")


def test_all_write_their_stacks_and_the_lowest_of_those_that_wait_tells(tmp_path: Path, capfd) -> None:
    """Rank 0 waits for data; the two others wait for rank 0 in a collective."""
    ranks = [Rank(tmp_path, rank, 3) for rank in range(3)]
    for rank in ranks:
        rank.train()
    ranks[0].watch.phase = "waiting for data"
    meet = threading.Barrier(3, timeout=20)

    def sleep(rank: Rank, seconds: float) -> None:
        if rank.clock.now_s < 110:
            meet.wait()  # in the grace all notice
        rank.clock.sleep(seconds)

    for rank in ranks:
        rank.dog._sleep = lambda seconds, rank=rank: sleep(rank, seconds)
        rank.dog._end = rank.codes.append
    threads = [threading.Thread(target=rank.after, args=(TIMEOUT_S + 1,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [rank.codes for rank in ranks] == [[1]] * 3
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(
        "trimaran: rank 1: no progress for 12 s at step 7 (in a step): waits for rank 0 (waiting"
    )
    assert [path.name for path in tmp_path.glob("failure-*")] == ["failure-1.txt"]
    for rank in range(3):
        assert "most recent call first" in (tmp_path / f"stacks-{rank}.txt").read_text()
    # The told one tells first.
    assert [rank.clock.now_s for rank in ranks] == [115.0, 112.0, 115.0]


def test_where_all_wait_alike_nobody_is_blamed(tmp_path: Path, capfd) -> None:
    rank = Rank(tmp_path, 0, 2)
    rank.train()
    signs.write(tmp_path / signs.FOLDER, replace(signs.own(1, 7, "in a step"), machine="another"))
    assert rank.after(TIMEOUT_S + 1) == [1]
    assert "(in a step): all ranks are there and wait alike; stacks in" in capfd.readouterr().err


def test_when_the_status_is_written_it_stays(alone, tmp_path: Path, capfd) -> None:
    write_status(tmp_path, "preempted", 7, "SIGTERM")
    alone.watch.over()
    assert alone.after(5 * TIMEOUT_S + 1) == [1]
    assert status(tmp_path)["state"] == "preempted"
    assert "(leaving the group)" in capfd.readouterr().err


def test_a_run_directory_that_cannot_be_written_does_not_keep_it_from_ending(tmp_path: Path, capfd) -> None:
    (tmp_path / "run").write_text("a file")
    rank = Rank(tmp_path / "run", 0, 2)
    rank.train()
    assert rank.after(TIMEOUT_S / 2) == []
    assert rank.after(TIMEOUT_S) == [1]
    assert f": {tmp_path}/run/.ranks cannot be read; stacks in" in capfd.readouterr().err


def test_many_that_are_missing_are_counted(tmp_path: Path, capfd) -> None:
    rank = Rank(tmp_path, 0, 100)
    assert rank.after(5 * TIMEOUT_S + 1) == [1]
    assert "rank 8 (no sign of life since this start), 91 more; stacks in" in capfd.readouterr().err


@pytest.mark.parametrize(("timeout_s", "interval_s"), [(SHORTEST_S, 1.0), (80.0, 10.0), (600.0, 30.0)])
def test_a_sign_is_given_eight_times_in_the_timeout_within_bounds(tmp_path, timeout_s, interval_s) -> None:
    clock = Clock()
    watch = Watch(clock=clock)
    dog = Watchdog(tmp_path, 0, 1, timeout_s, watch, lambda code: pytest.fail(), clock)
    dog.begin()
    written = []
    for _ in range(95):
        clock.now_s += 1
        watch.progress()
        watch.step += 1
        dog.look()
        step = signs.read(tmp_path / signs.FOLDER, 0)[0].sign.step
        written += [step] if step and step not in written else []
    assert written[:3] == [interval_s, 2 * interval_s, 3 * interval_s]


def test_nobody_watches_over_a_verification_or_where_it_is_not_wanted(
    open_tiny, monkeypatch, tmp_path
) -> None:
    runs = open_tiny(hang_timeout_s=0.0), open_tiny(replay_from=tmp_path / "reference")
    monkeypatch.setattr(hanging.threading, "Thread", lambda **keywords: pytest.fail("watches"))
    for run in runs:
        hanging.watch_over(run, Watch())
