"""Two programs raced against each other: pairs of fresh processes, whose windows take turns A B B A."""

import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import NoReturn

from benchmarks.contestant import Contestant, Entry, Window
from benchmarks.interval import Ratio, ratio_of_turns

MakeEntry = Callable[[Path], Entry]
"""From an empty folder for its files to what is started."""
MAX_HALF_WIDTH = 0.01


@dataclass
class WindowPlan:
    """What is measured in each process."""

    windows: int = 8
    """Windows measured in each process."""
    warmup_windows: int = 2
    """Windows left out after step 1: the first holds what is imported late."""
    window_steps: int = 10
    """Steps in a window."""

    @property
    def steps(self) -> int:
        """One more than is measured, so that the last window does not run into what comes after training."""
        return self.window_steps * (self.warmup_windows + self.windows) + 1


@dataclass
class Effort(WindowPlan):
    """How long a duel goes on."""

    pairs: int = 10
    """Pairs of processes at least."""
    max_pairs: int = 40
    """Pairs at most: beyond `pairs` only until the 95 % interval reaches no further than 1 % to either side."""
    max_minutes: float = 8.0
    """No new pair after this time, even below `pairs` (the table says how many there were)."""


@dataclass
class Side:
    """What one program did, a list element a pair; times in seconds, memory in bytes over all its ranks."""

    windows: list[list[Window]] = field(default_factory=list)
    peak_memory_bytes: list[float] = field(default_factory=list)
    first_steps: list[Window] = field(default_factory=list)
    compile_s: list[float] = field(default_factory=list)
    whole_run_memory_bytes: float = 0.0


def duel(first: MakeEntry, second: MakeEntry, effort: Effort) -> tuple[Side, Side]:
    """Race until the interval of the step time is narrow enough. Raises RuntimeError where a program fails."""
    signal.signal(signal.SIGTERM, _end)
    sides = (Side(), Side())
    deadline = time.monotonic() + 60 * effort.max_minutes
    for number, order in zip(range(effort.max_pairs), cycle(((0, 1), (1, 0))), strict=False):
        with tempfile.TemporaryDirectory(prefix="race-") as folder:
            entries = (first(Path(folder, "first")), second(Path(folder, "second")))
            _run_pair(entries, sides, order, effort, to_the_end=number == 0)
        ratio = step_ratio(*sides)
        alone = step_ratio(*(Side(side.windows[-1:]) for side in sides))
        so_far = f"so far {ratio.value:.4f} ± {ratio.half_width:.2%}"
        print(f"  pair {number + 1}: ratio {alone.value:.4f}, {so_far}", file=sys.stderr)
        precise = number + 1 >= effort.pairs and ratio.half_width <= MAX_HALF_WIDTH
        if precise or time.monotonic() > deadline:
            break
    return sides


def _end(number: int, _: object) -> NoReturn:
    """By way of the `finally` that kills the contestants: one that stands still would stand there for ever."""
    raise SystemExit(128 + number)


def step_ratio(ours: Side, theirs: Side) -> Ratio:
    """The ratio of the wall times of a step."""
    wall = [[[window.step_time_s for window in pair] for pair in side.windows] for side in (ours, theirs)]
    return ratio_of_turns(wall[0], wall[1])


def cpu_ratio(ours: Side, theirs: Side) -> Ratio:
    """The ratio of the CPU times of a step, over all ranks: what a busy machine cannot disturb as much."""
    cpu = [[[window.cpu_time_s for window in pair] for pair in side.windows] for side in (ours, theirs)]
    return ratio_of_turns(cpu[0], cpu[1])


def _run_pair(
    entries: tuple[Entry, Entry],
    sides: tuple[Side, Side],
    order: tuple[int, int],
    effort: Effort,
    to_the_end: bool,
) -> None:
    contestants = tuple(Contestant(entry) for entry in entries)
    windows: tuple[list[Window], list[Window]] = ([], [])
    try:
        first_steps = {index: contestants[index].start() for index in order}
        for number in range(effort.warmup_windows + effort.windows):
            for index in order if number % 2 == 0 else reversed(order):
                window = contestants[index].run_window()
                if number >= effort.warmup_windows:
                    windows[index].append(window)
        for side, contestant, measured, index in zip(sides, contestants, windows, (0, 1), strict=True):
            side.windows.append(measured)
            side.peak_memory_bytes.append(contestant.peak_memory_bytes)
            side.first_steps.append(first_steps[index])
            side.compile_s.append(_first_call_s(contestant))
            if to_the_end:
                contestant.run_to_the_end()
                side.whole_run_memory_bytes = contestant.peak_memory_bytes
    finally:
        for contestant in contestants:
            contestant.kill()


def _first_call_s(contestant: Contestant) -> float:
    """Seconds of the first step itself, without waiting for its data: under TensorFlow mostly tracing."""
    path = contestant.entry.first_row
    if path is None:
        return float(json.loads(contestant.first_line)["step_time_s"])
    row = json.loads((path.parent / "timing-0.jsonl").read_text().splitlines()[0])
    return float(row["step_time_s"] - row["data_time_s"])
