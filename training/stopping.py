"""The agreed stop: a warning of pre-emption, heard by one rank or by all, stops all ranks at the same step.

No signal handler of ours does anything, least of all a collective: a thread learns of the signal and sets a flag,
the loop looks at the flag between two steps, and the ranks tell each other every 1 to 5 seconds.

The rules. The first of SIGNALS is the warning: every rank takes the agreed step, there is one checkpoint, exit code 75.
Launchers and Slurm deliver one warning by several ways, so what arrives within AGAIN_S of it, of whatever kind, is the
same warning. A later one is the second signal and ends the process at once, with 128 + its number. So does any signal
before there are steps to stop at. When the run's status is written there is nothing left to stop, and none counts.
"""

import atexit
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from training import ending, hanging

if TYPE_CHECKING:
    from training.run import Run

Item = TypeVar("Item")
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
AGAIN_S = 1.0
"""What arrives within this time of the first signal is the same warning."""
LEAST_GRACE_S = 10.0
GRACE_GAPS = 5
"""A warned process that is quiet for this many of its longest gaps, and for LEAST_GRACE_S, is stuck."""
LONG_GRACE_S = 600.0
"""For what has no earlier gap to go by: the first step compiles, and all ranks wait while one writes a checkpoint."""
LOOK_S = 0.25
INTERVAL_S, LONGEST_INTERVAL_S = 1.0, 5.0
"""About how far apart in time the ranks tell each other of warnings."""
MOST_SHARE = 0.002
"""Of the time, for telling each other. Horovod on CPUs takes 7 to 18 ms, Gloo 1: with Horovod it is done less often."""
MOST_STEPS = 1000


class Watch:
    """What this process has heard, and whether it gets anywhere since.

    Launchers end all ranks by SIGTERM when one has failed, and those may be waiting for it in a collective, for
    ever. So a warned process that shows no sign of progress for a while ends itself. What shows none without having
    been warned is training/hanging.py's matter, which reads `step`, `phase`, `takes_long` and `quiet_s`.
    """

    def __init__(
        self, end: Callable[[int], object] = os._exit, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.heard = 0
        self.listens = False
        self.step, self.phase, self.takes_long = 0, "starting", True
        self._end, self._clock = end, clock
        self._run_dir: Path | None = None
        self._has_steps = self._is_over = False
        self._heard_s = self._sign_s = clock()
        self._longest_gap_s = 0.0

    def belongs_to(self, run_dir: Path, step: int, is_main: bool) -> None:
        """Whose process this is. The main one's has status.json to write where it is ended at once."""
        self.step, self._run_dir = step, run_dir if is_main else None
        self.enter("starting")

    def begin(self) -> None:
        """From now on there are steps to stop at. Before, a signal ends the process at once, as is its nature."""
        if self.listens:
            _take_signals()  # back: TensorFlow's coordination service handles SIGTERM in its own way
        self._has_steps = True
        self._sign_s, self.takes_long = self._clock(), True

    def over(self) -> None:
        """The run's status is written: nothing is left to stop, only the group to leave."""
        self._is_over = True
        self.enter("leaving the group")

    def progress(self, next_takes_long: bool = False) -> None:
        """A sign of progress; the next one may be long in coming."""
        now = self._clock()
        self._longest_gap_s = max(self._longest_gap_s, now - self._sign_s)
        self._sign_s, self.takes_long = now, next_takes_long

    def enter(self, phase: str) -> None:
        """A sign of progress, and the name (one of signs.PHASES) of what comes now and may take long."""
        self.phase = phase
        self.progress(next_takes_long=True)

    def fed(self, feed: Iterator[Item]) -> Iterator[Item]:
        """What `feed` gives; `phase` tells whether one of them is waited for, or a step taken with it."""
        while True:
            self.phase = "waiting for data"
            try:
                item = next(feed)
            except StopIteration:
                return
            self.phase = "in a step"
            yield item
            del item  # or two batches would be in memory

    @property
    def quiet_s(self) -> float:
        """How long ago the last sign of progress was."""
        return self._clock() - self._sign_s

    def hear(self, number: int) -> None:
        """Called in the listening thread."""
        name = signal.Signals(number).name
        if self._is_over:
            return
        if not self._has_steps:
            self._end_at_once(
                number, f"{name} before the first step: ended at once; start again with --resume"
            )
        elif not self.heard:
            self._heard_s, self.heard = self._clock(), number
            if number == signal.SIGINT and self._run_dir is not None:  # by a person, who waits
                ending.tell("SIGINT: stopping soon, with a checkpoint; once more ends at once, without")
        elif self._clock() - self._heard_s > AGAIN_S:
            first = signal.Signals(self.heard).name
            names = f"{name} twice" if first == name else f"{first}, then {name}"
            self._end_at_once(number, f"{names}: ended at once at step {self.step}; go on with --resume")

    def look(self) -> None:
        """Called in the listening thread: end a warned process that is stuck."""
        quiet_s = self._clock() - max(self._heard_s, self._sign_s)
        grace_s = LONG_GRACE_S if self.takes_long else max(LEAST_GRACE_S, GRACE_GAPS * self._longest_gap_s)
        if self.heard and quiet_s > grace_s:
            name = signal.Signals(self.heard).name
            ending.tell(f"stuck for {quiet_s:.0f} s after {name}; this rank ends")
            self._end_at_once(
                self.heard, f"{name}: stuck for {quiet_s:.0f} s at step {self.step}; go on with --resume"
            )

    def _end_at_once(self, number: int, reason: str) -> None:
        if (run_dir := self._run_dir) is not None:
            ending.in_time(lambda: ending.no_longer_running(run_dir, self.step, reason))
        self._end(128 + number)


WATCH = Watch()
"""This process's own."""


def listen(run: "Run | None" = None, watch: Watch = WATCH) -> None:
    """Let a thread hear SIGNALS in place of the main thread and all threads that are started after this call.

    From here on a hang of this `run` is noticed too (training/hanging.py); its first phase is to import the framework.

    So their system calls are never interrupted. Not by sigwait, which needs them blocked in *every* thread: NumPy's
    are older than this call, and Python's resource tracker unblocks SIGTERM as it starts (3.11). Wherever the kernel
    delivers a signal, Python writes its number to the pipe.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    _take_signals()
    watch.listens = True
    atexit.register(_ignore_signals)
    threading.Thread(target=_listen, args=(heard, watch), name="stopping", daemon=True).start()
    if run is not None:
        watch.belongs_to(run.run_dir, run.start.step if run.start else 0, run.world.is_main)
        hanging.watch_over(run, watch)


def _take_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)


def _ignore_signals() -> None:
    for number in SIGNALS:  # or Python, in its end, puts back what they do by default
        signal.signal(number, signal.SIG_IGN)


def _listen(heard: int, watch: Watch) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    while True:
        ready, _, _ = select.select([heard], [], [], LOOK_S if watch.heard else None)
        for number in os.read(heard, 64) if ready else b"":
            if number in SIGNALS:
                watch.hear(number)
        watch.look()


class Exchange:
    """The steps after which the ranks tell each other what they heard. All know the same next one.

    gather(numbers): int64 [k] of every process as [processes, k]; it must not wait for the device.
    """

    def __init__(
        self,
        gather: Callable[[np.ndarray], np.ndarray],
        num_processes: int,
        first_step: int,
        watch: Watch = WATCH,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._gather, self._num_processes, self._watch, self._clock = gather, num_processes, watch, clock
        self._last_step, self._last_s = first_step, clock()
        self._interval_s = INTERVAL_S
        self.next_step = first_step + 1

    def after(self, step: int) -> int:
        """Called by every rank after each step: the signal that any of them heard, the same on all, or 0."""
        if self._num_processes == 1:
            return self._watch.heard
        if step < self.next_step:
            return 0
        now = self._clock()
        step_time_s = (now - self._last_s) / (step - self._last_step)
        wanted = min(max(1, round(self._interval_s / max(step_time_s, 1e-6))), MOST_STEPS)
        table = self._gather(np.array([self._watch.heard, wanted], np.int64))
        self._interval_s = min(max(INTERVAL_S, (self._clock() - now) / MOST_SHARE), LONGEST_INTERVAL_S)
        self._last_step, self._last_s = step, now
        self.next_step = step + int(table[:, 1].min())
        return int(table[:, 0].max())
