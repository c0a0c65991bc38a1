"""Arithmetic on spans of time: what covers what, and what is left."""

from collections.abc import Iterable

Span = tuple[float, float]
"""(begin, end) in seconds, of one clock."""


def union(spans: Iterable[Span]) -> list[Span]:
    """The same moments as spans that are apart from each other and in order; empty ones are gone."""
    merged: list[Span] = []
    for begin, end in sorted(span for span in spans if span[1] > span[0]):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def length(spans: Iterable[Span]) -> float:
    """Seconds that the spans cover, each moment once."""
    return sum(end - begin for begin, end in union(spans))


def clipped(spans: Iterable[Span], window: Span) -> list[Span]:
    """What of the spans lies in the window."""
    begin, end = window
    return [(max(a, begin), min(b, end)) for a, b in spans if b > begin and a < end]


def shares(window: Span, *layers: Iterable[Span]) -> tuple[float, ...]:
    """Divide a window among layers: seconds of each that no layer before it covers, and at last what none covers.

    They add up to the window. With (compute, communication) the second number is the exposed communication.
    """
    covered: list[Span] = []
    covered_s, found = 0.0, []
    for layer in layers:
        covered = union([*covered, *clipped(layer, window)])
        now_s = length(covered)
        found.append(max(now_s - covered_s, 0.0))
        covered_s = now_s
    return (*found, max(window[1] - window[0] - covered_s, 0.0))
