"""Interval arithmetic against counting the small pieces that a span is made of."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.intervals import clipped, length, shares, union

SPAN = st.tuples(st.integers(-5, 25), st.integers(-5, 25)).map(lambda pair: (min(pair), max(pair)))
SPANS = st.lists(SPAN, max_size=8)
LAYERS = st.lists(SPANS, max_size=4)


def pieces(spans: list) -> set[int]:
    return {piece for begin, end in spans for piece in range(begin, end)}


@given(SPAN, LAYERS)
def test_each_moment_of_a_window_belongs_to_the_first_layer_that_has_it(window, layers) -> None:
    left, expected = pieces([window]), []
    for layer in layers:
        expected.append(len(left & pieces(layer)))
        left -= pieces(layer)
    found = shares(window, *layers)
    assert found == (*expected, len(left))
    assert sum(found) == window[1] - window[0]


@given(SPANS)
def test_a_union_has_the_same_moments_once(spans) -> None:
    merged = union(spans)
    assert pieces(merged) == pieces(spans)
    assert length(spans) == len(pieces(spans)) == sum(end - begin for begin, end in merged)
    assert all(first[1] < second[0] for first, second in itertools.pairwise(merged))


@given(SPANS, SPAN)
def test_what_is_clipped_lies_in_the_window(spans, window) -> None:
    assert pieces(clipped(spans, window)) == pieces(spans) & pieces([window])


def test_communication_beside_computing_is_hidden() -> None:
    assert shares((0.0, 10.0), [(1.0, 4.0)], [(3.0, 6.0)]) == pytest.approx((3.0, 2.0, 5.0))
