import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from telemetry.run_log import write_status
from training.ending import state_of
from training.stopping import (
    AGAIN_S,
    GRACE_GAPS,
    LEAST_GRACE_S,
    LONG_GRACE_S,
    SIGNALS,
    Watch,
)

ROOT = Path(__file__).parents[2]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Watched:
    """A watch whose end is recorded."""

    def __init__(self) -> None:
        self.clock, self.codes = Clock(), []
        self.watch = Watch(self.codes.append, self.clock)

    def after(self, seconds: float) -> list[int]:
        """What the watch has ended the process with, once it looks again."""
        self.clock.now_s += seconds
        self.watch.look()
        return self.codes


@pytest.fixture
def stepping() -> Watched:
    """A watch over a loop that took two steps of 3 s after a first one of 4 s."""
    watched = Watched()
    watched.watch.begin()
    for step_time_s in (4, 3, 3):
        watched.clock.now_s += step_time_s
        watched.watch.progress()
    return watched


@pytest.mark.parametrize("number", SIGNALS)
def test_before_the_first_step_a_signal_ends_the_process(number: int) -> None:
    watched = Watched()
    watched.watch.hear(number)
    assert watched.codes == [128 + number]


def test_later_it_is_heard_and_the_first_one_is_the_reason(stepping: Watched) -> None:
    assert stepping.watch.heard == 0
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM):
        stepping.watch.hear(number)
    assert (stepping.watch.heard, stepping.codes) == (signal.SIGUSR2, [])


def test_what_launchers_send_within_a_second_is_the_same_warning_and_what_comes_later_a_second(
    stepping,
) -> None:
    stepping.watch.hear(signal.SIGUSR1)
    for _ in range(4):
        stepping.clock.now_s += AGAIN_S / 4
        stepping.watch.hear(signal.SIGTERM)
    assert (stepping.watch.heard, stepping.codes) == (signal.SIGUSR1, [])
    stepping.clock.now_s += 0.1
    stepping.watch.hear(signal.SIGTERM)
    assert stepping.codes == [143]


@pytest.mark.parametrize("state", ["running", "preempted", None])
def test_before_the_first_step_the_status_is_not_left_at_running(tmp_path: Path, state: str | None) -> None:
    for is_main in (False, True):
        if state is not None:
            write_status(tmp_path, state, 5, "why")
        watched = Watched()
        watched.watch.belongs_to(tmp_path, 5, is_main)
        watched.watch.hear(signal.SIGINT)
        assert watched.codes == [130]
        assert state_of(tmp_path) == ("failed" if is_main and state == "running" else state)


def test_a_stuck_main_process_leaves_no_status_of_a_run_that_goes_on(stepping, tmp_path: Path) -> None:
    write_status(tmp_path, "running", 2)
    stepping.watch.belongs_to(tmp_path, 2, is_main=True)
    stepping.watch.progress()
    stepping.watch.hear(signal.SIGTERM)
    assert stepping.after(GRACE_GAPS * 4 + 1) == [143]
    assert state_of(tmp_path) == "failed"


def test_a_warned_process_that_gets_nowhere_ends(stepping: Watched, capfd) -> None:
    stepping.watch.hear(signal.SIGTERM)
    assert stepping.after(GRACE_GAPS * 4 - 1) == []  # five times the longest gap
    assert stepping.after(2) == [143]
    assert "stuck for 21 s after SIGTERM" in capfd.readouterr().err


def test_a_process_that_gets_somewhere_does_not_end(stepping: Watched) -> None:
    stepping.watch.hear(signal.SIGUSR2)
    for _ in range(10):
        assert stepping.after(GRACE_GAPS * 4 - 1) == []
        stepping.watch.progress()


def test_without_a_warning_nothing_is_too_long(stepping: Watched) -> None:
    assert stepping.after(10 * LONG_GRACE_S) == []
    stepping.watch.hear(signal.SIGUSR1)  # what was quiet before counts from the warning on
    assert stepping.after(GRACE_GAPS * 4 - 1) == []


def test_short_steps_are_given_a_while() -> None:
    watched = Watched()
    watched.watch.begin()
    watched.watch.progress()
    watched.watch.hear(signal.SIGTERM)
    assert watched.after(LEAST_GRACE_S - 1) == []
    assert watched.after(2) == [143]


def test_what_takes_long_by_nature_is_given_longer(stepping: Watched) -> None:
    stepping.watch.progress(next_takes_long=True)
    stepping.watch.hear(signal.SIGTERM)
    assert stepping.after(LONG_GRACE_S - 1) == []
    assert stepping.after(2) == [143]


def test_the_first_step_is_given_longer() -> None:
    watched = Watched()
    watched.clock.now_s += 3600  # imports are not its steps
    watched.watch.begin()
    watched.watch.hear(signal.SIGTERM)
    assert watched.after(LONG_GRACE_S - 1) == []
    watched.watch.progress()
    assert watched.after(LEAST_GRACE_S) == []


SCRIPT = """
import os, signal, sys, threading, time
import numpy  # has threads of its own
from multiprocessing import resource_tracker
from training import stopping

older = threading.Event()
threading.Thread(target=older.wait, daemon=True).start()
stopping.listen()
stopping.LEAST_GRACE_S = stopping.LONG_GRACE_S = 60 if "again" in sys.argv else 0.3
stopping.AGAIN_S = 0.01 if "again" in sys.argv else 1.0
if "tracker" in sys.argv:
    resource_tracker.ensure_running()  # unblocks SIGTERM here
if "taken" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
if "begin" in sys.argv:
    stopping.WATCH.begin()
print("ready", flush=True)
if "stuck" in sys.argv:
    threading.Lock().acquire() and sys.stdin.read()
while not stopping.WATCH.heard:
    time.sleep(0.01)
print(signal.Signals(stopping.WATCH.heard).name, flush=True)
"""


def signalled(
    number: int, *words: str, times: int = 1, apart_s: float = 0.0, before: Callable[[], None] | None = None
) -> tuple[int, str, str]:
    """Exit code and output of a process that listens, after it was sent a signal."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *words],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    ) as process:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        for _ in range(times):
            process.send_signal(number)
            time.sleep(apart_s)
        output = process.stdout.read()
        return process.wait(60), output, process.stderr.read()


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("words", [("begin",), ("begin", "tracker"), ("begin", "taken")])
def test_a_real_signal_is_heard_whatever_threads_there_are(number: signal.Signals, words) -> None:
    assert signalled(number, *words) == (0, f"{number.name}\n", "")


def test_signals_that_were_ignored_or_blocked_by_whoever_started_us_are_heard() -> None:
    def ignore() -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)

    def block() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])

    for before in (ignore, block):
        assert signalled(signal.SIGUSR2, "begin", before=before) == (0, "SIGUSR2\n", "")


def test_many_signals_do_no_harm() -> None:
    assert signalled(signal.SIGTERM, "begin", times=200) == (0, "SIGTERM\n", "")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_real_signal_before_the_first_step_ends_the_process(number: int) -> None:
    assert signalled(number) == (128 + number, "", "")


def test_a_real_second_signal_ends_a_process_that_is_stuck_at_once() -> None:
    assert signalled(signal.SIGINT, "begin", "stuck", "again", times=2, apart_s=0.3) == (130, "", "")


def test_a_real_process_that_is_stuck_ends() -> None:
    code, output, errors = signalled(signal.SIGTERM, "begin", "stuck")
    assert (code, output) == (143, "")
    assert "after SIGTERM; this rank ends" in errors
