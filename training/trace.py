"""What a profiler saw of one device, in the same words for every framework, and what it says of a step."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from training.intervals import Span, clipped, length, shares

MARK, COMPUTE, COMMUNICATION, NEGOTIATION = "mark", "compute", "communication", "negotiation"
INPUT, PLACE, STEP, END = (f"trimaran.{name}" for name in ("input", "place", "step", "end"))
"""Our own marks: waiting for a batch, moving it to the device, the step, the end of the last step."""
MOST_OPERATIONS = 50
PARTS = ("compute_s", "exposed_communication_s", "input_wait_s", "rest_s")
"""What a step's time is divided into; they add up to it."""


class Event(NamedTuple):
    """Something that took time on one thread of the host or one stream of a device; seconds of one clock."""

    kind: str
    name: str
    thread: str
    begin_s: float
    end_s: float


class Lane(NamedTuple):
    """The events of one device with its host's marks, and the number of workers that it stands for.

    runs_behind: the host runs ahead of the device, so that its marks do not tell the device's steps apart.
    knows_communication: false where communication leaves no event here.
    """

    device: str
    workers: int
    events: list[Event]
    runs_behind: bool = False
    knows_communication: bool = True


def summarise(lane: Lane, steps: range) -> dict[str, Any]:
    """What the events say of these steps; all times are seconds of one step.

    A step lasts from its first mark (the wait for its batch) to that of the next. Each moment of it belongs to the
    first of these that claims it: computing, communication (so this much of it is exposed), waiting for input, the
    rest. Figures are medians over the steps; of a device that runs behind, means over all of them.
    Raises ValueError where a step has no mark.
    """
    windows = _windows(lane, steps)
    spans = {
        kind: [(e.begin_s, e.end_s) for e in lane.events if e.kind == kind]
        for kind in (COMPUTE, COMMUNICATION, NEGOTIATION)
    }
    spans[INPUT] = [(e.begin_s, e.end_s) for e in lane.events if e.name in (INPUT, PLACE)]
    per_window = len(steps) // len(windows)
    table: list[dict[str, Any]] = [
        {name: value / per_window for name, value in _divide(window, spans).items()} for window in windows
    ]
    figures: dict[str, Any] = {name: median(row[name] for row in table) for name in table[0]}
    if not lane.knows_communication:
        unknown = ("exposed_communication_s", "communication_s", "negotiation_s")
        figures |= dict.fromkeys(unknown)  # what it cost is somewhere in the rest
        table = [row | dict.fromkeys(unknown) for row in table]
    numbers = list(steps) if per_window == 1 else [None]
    return {
        "device": lane.device,
        "workers": lane.workers,
        **figures,
        "steps": [{"step": number, **row} for number, row in zip(numbers, table, strict=True)],
        "operations": _operations(lane, (windows[0][0], windows[-1][1]), len(steps)),
    }


def _windows(lane: Lane, steps: range) -> list[Span]:
    """The span of each step, or one of all where the device runs behind its host."""
    begins = sorted(e.begin_s for e in lane.events if e.name == INPUT)
    ends = [e.begin_s for e in lane.events if e.name == END]
    if len(begins) != len(steps) or len(ends) != 1:
        raise ValueError(f"the trace has marks of {len(begins)} steps, expected {len(steps)} and their end")
    borders = [*begins, *ends]
    return [(borders[0], borders[-1])] if lane.runs_behind else list(itertools.pairwise(borders))


def _divide(window: Span, spans: dict[str, list[Span]]) -> dict[str, float]:
    together = [*spans[COMMUNICATION], *spans[NEGOTIATION]]
    parts = shares(window, spans[COMPUTE], together, spans[INPUT])
    return {
        "step_time_s": window[1] - window[0],
        **dict(zip(PARTS, parts, strict=True)),
        "communication_s": length(clipped(together, window)),
        "negotiation_s": length(clipped(spans[NEGOTIATION], window)),
    }


def _operations(lane: Lane, window: Span, num_steps: int) -> list[dict[str, Any]]:
    """The operations that took the most time themselves (what they call left out), as parts of all workers' time."""
    totals: defaultdict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0])
    for event, self_s in self_times([e for e in lane.events if e.kind in (COMPUTE, COMMUNICATION)]):
        if window[0] <= event.begin_s < window[1]:
            total = totals[event.kind, event.name]
            total[0] += self_s
            total[1] += 1
    whole_s = (window[1] - window[0]) * lane.workers
    found: list[dict[str, Any]] = [
        {
            "name": name,
            "kind": kind,
            "time_s": seconds / num_steps,
            "share": seconds / whole_s if whole_s else None,
            "calls": calls / num_steps,
        }
        for (kind, name), (seconds, calls) in totals.items()
    ]
    return sorted(found, key=lambda operation: -operation["time_s"])[:MOST_OPERATIONS]


def self_times(events: Sequence[Event]) -> list[tuple[Event, float]]:
    """Each event with the seconds in which no other one runs inside of it, on its own thread."""
    threads: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        threads[event.thread].append(event)
    found = []
    for members in threads.values():
        open_ones: list[list[Any]] = []  # [event, seconds of those inside]
        for event in sorted(members, key=lambda e: (e.begin_s, -e.end_s)):
            while open_ones and open_ones[-1][0].end_s <= event.begin_s:
                found.append(open_ones.pop())
            if open_ones:
                open_ones[-1][1] += min(event.end_s, open_ones[-1][0].end_s) - event.begin_s
            open_ones.append([event, 0.0])
        found += reversed(open_ones)
    return [(event, max(event.end_s - event.begin_s - inside_s, 0.0)) for event, inside_s in found]
