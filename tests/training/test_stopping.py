import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.stopping import GRACE_GAPS, LEAST_GRACE_S, LONG_GRACE_S, MOST_STEPS, SIGNALS, Exchange, Watch

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
stopping.LEAST_GRACE_S = stopping.LONG_GRACE_S = 0.3
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
    number: int, *words: str, times: int = 1, before: Callable[[], None] | None = None
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


def test_a_real_process_that_is_stuck_ends() -> None:
    code, output, errors = signalled(signal.SIGTERM, "begin", "stuck")
    assert (code, output) == (143, "")
    assert "after SIGTERM; this rank ends" in errors


class Ranks:
    """Ranks in lockstep, each with its own clock and watch; `run` gives what each of them saw."""

    def __init__(self, step_times_s: list[list[float]]) -> None:
        """step_times_s: for each rank its step times, repeated."""
        self.step_times_s, self.size = step_times_s, len(step_times_s)
        self.watches = [Watch(lambda code: None, Clock()) for _ in step_times_s]
        for watch in self.watches:
            watch.begin()
        self.table = np.zeros([self.size, 2], np.int64)
        self.barrier = threading.Barrier(self.size, timeout=10)

    def gather(self, rank: int, numbers: np.ndarray) -> np.ndarray:
        """As a collective: it returns when all ranks have called it."""
        self.table[rank] = numbers
        self.barrier.wait()
        table = self.table.copy()
        self.barrier.wait()
        return table

    def train(self, rank: int, steps: int, warn_at: tuple[int, int], seen: list) -> None:
        """Take steps until told to stop; the rank of `warn_at` is sent SIGUSR2 in the step of it."""
        clock, exchanges = Clock(), []

        def gather(numbers: np.ndarray) -> np.ndarray:
            exchanges.append(step)
            return self.gather(rank, numbers)

        exchange = Exchange(gather, self.size, 0, self.watches[rank], clock)
        for step in range(1, steps + 1):
            times = self.step_times_s[rank]
            clock.now_s += times[step % len(times)]
            if (rank, step) == warn_at:
                self.watches[rank].hear(signal.SIGUSR2)
            if number := exchange.after(step):
                seen[rank] = (step, number, exchanges)
                return
        seen[rank] = (None, 0, exchanges)

    def run(self, steps: int, warn_at: tuple[int, int]) -> list:
        """(stopping step or None, signal, steps of the exchanges) of each rank."""
        seen: list = [None] * self.size
        threads = [
            threading.Thread(target=self.train, args=(rank, steps, warn_at, seen))
            for rank in range(self.size)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return seen


times = st.lists(st.floats(1e-5, 5.0), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    step_times_s=st.lists(times, min_size=2, max_size=4),
    warned=st.tuples(st.integers(0, 3), st.integers(1, 400)),
)
def test_ranks_of_any_pace_tell_each_other_at_the_same_steps_and_stop_at_the_same(
    step_times_s, warned
) -> None:
    seen = Ranks(step_times_s).run(1500, warned)
    assert seen == [seen[0]] * len(step_times_s)
    stop, number, exchanges = seen[0]
    if warned[0] >= len(step_times_s):
        assert (stop, number) == (None, 0)
    else:
        assert number == signal.SIGUSR2
        # At the first exchange that follows the warning.
        assert stop == exchanges[-1] == min(step for step in exchanges if step >= warned[1])
    assert exchanges[0] == 1
    assert all(gap <= MOST_STEPS for gap in np.diff(exchanges))


@pytest.mark.parametrize(
    ("step_time_s", "steps"), [(3.0, 1), (0.6, 2), (0.1, 10), (0.004, 250), (1e-4, 1000)]
)
def test_exchanges_are_about_a_second_apart(step_time_s: float, steps: int) -> None:
    _, _, exchanges = Ranks([[step_time_s], [step_time_s]]).run(3 * steps + 1, (9, 9))[0]
    assert exchanges == [1, 1 + steps, 1 + 2 * steps, 1 + 3 * steps]


@pytest.mark.parametrize(("took_s", "interval_s"), [(0.001, 1), (0.004, 2), (0.02, 5)])
def test_what_costs_much_is_done_less_often(took_s: float, interval_s: float) -> None:
    clock, seen = Clock(), []

    def gather(numbers: np.ndarray) -> np.ndarray:
        seen.append(step)
        clock.now_s += took_s
        return numbers[None]

    exchange = Exchange(gather, 2, 0, Watched().watch, clock)
    for step in range(1, 1300):
        clock.now_s += 0.01
        assert exchange.after(step) == 0
    assert seen[-1] - seen[-2] == pytest.approx(100 * interval_s, rel=0.01)


def test_the_slowest_rank_says_when_and_the_greatest_signal_is_the_reason() -> None:
    answers = iter([[[0, 50], [0, 7], [0, 90]], [[10, 5], [0, 5], [15, 5]]])
    exchange = Exchange(lambda numbers: np.array(next(answers)), 3, 20, Watched().watch)
    assert (exchange.after(21), exchange.next_step) == (0, 28)
    assert [exchange.after(step) for step in range(22, 29)] == [0] * 6 + [signal.SIGTERM]


def test_one_process_asks_nobody(stepping: Watched) -> None:
    exchange = Exchange(lambda numbers: pytest.fail("gathered"), 1, 0, stepping.watch)
    assert exchange.after(1) == 0
    stepping.watch.hear(signal.SIGUSR1)
    assert exchange.after(2) == signal.SIGUSR1
