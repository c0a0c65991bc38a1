"""How the ranks tell each other of a warning."""

import signal
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.stopping import MOST_STEPS, Exchange, Watch


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


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

    exchange = Exchange(gather, 2, 0, Watch(), clock)
    for step in range(1, 1300):
        clock.now_s += 0.01
        assert exchange.after(step) == 0
    assert seen[-1] - seen[-2] == pytest.approx(100 * interval_s, rel=0.01)


def test_the_slowest_rank_says_when_and_the_greatest_signal_is_the_reason() -> None:
    answers = iter([[[0, 50], [0, 7], [0, 90]], [[10, 5], [0, 5], [15, 5]]])
    exchange = Exchange(lambda numbers: np.array(next(answers)), 3, 20, Watch())
    assert (exchange.after(21), exchange.next_step) == (0, 28)
    assert [exchange.after(step) for step in range(22, 29)] == [0] * 6 + [signal.SIGTERM]


def test_one_process_asks_nobody() -> None:
    watch = Watch()
    watch.begin()
    exchange = Exchange(lambda numbers: pytest.fail("gathered"), 1, 0, watch)
    assert exchange.after(1) == 0
    watch.hear(signal.SIGUSR1)
    assert exchange.after(2) == signal.SIGUSR1
