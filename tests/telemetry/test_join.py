import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.columns import GPU_GAUGES, HOST_GAUGES, Samples, collect, merge
from telemetry.join import LONGEST_HOLD, Usage, concatenate, increase, join

INTERVAL_S = 0.5
EXAMPLES = settings(max_examples=50, deadline=None)
THROTTLING = {
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
}
Row = dict[str, Any]
Span = tuple[float, float]


def close(value: float) -> Any:
    return pytest.approx(value, rel=1e-9, abs=1e-7, nan_ok=True)


def used(rows: list[Row], *windows: Span, interval_s: float = INTERVAL_S) -> Usage:
    starts, ends = zip(*windows, strict=True)
    return join(merge([collect(rows, interval_s)]), np.array(starts), np.array(ends))


def row(time_s: float, **values: Any) -> Row:
    return {"t_monotonic_s": time_s, "t_unix_s": 1.7e9 + time_s, **values}


# Milliseconds as integers: times and their differences are then as exact as they are in the files.
gaps_ms = st.one_of(st.integers(450, 550), st.integers(1, 3000))
percent = st.none() | st.integers(0, 100)


@st.composite
def samples(draw: st.DrawFn) -> list[Row]:
    time_ms, energy, rows = draw(st.integers(0, 10**9)), draw(st.integers(0, 2**40)), []
    for gap_ms in draw(st.lists(gaps_ms, max_size=12)):
        time_ms += gap_ms
        energy += draw(st.integers(0, 10**6))
        rows.append(
            row(
                time_ms / 1000,
                utilization_percent=draw(percent),
                power_mw=draw(st.integers(0, 700_000)),
                energy_mj=draw(st.sampled_from([energy, energy, energy, None])),
                clocks_event_reasons=draw(st.none() | st.integers(0, 0x1FF)),
                ecc_corrected=0,
            )
        )
    return rows


@st.composite
def joined(draw: st.DrawFn) -> tuple[list[Row], list[Span]]:
    """Samples, and windows somewhere about them; many begin or end with a sample."""
    rows = draw(samples())
    first_ms = round(rows[0]["t_monotonic_s"] * 1000) if rows else 0
    anywhere = st.integers(first_ms - 2000, first_ms + 20_000).map(lambda time_ms: time_ms / 1000)
    at = anywhere | st.sampled_from([one["t_monotonic_s"] for one in rows]) if rows else anywhere
    spans = st.tuples(at, at).filter(lambda span: span[0] != span[1]).map(lambda span: (min(span), max(span)))
    return rows, draw(st.lists(spans, min_size=1, max_size=4))


def held(rows: list[Row], window: Span) -> list[tuple[float, Row]]:
    """The definition, one sample after the other: for how long each holds within the window."""
    found, last_s = [], -math.inf
    for one in rows:
        time_s = one["t_monotonic_s"]
        since_s = time_s - INTERVAL_S if time_s - last_s > LONGEST_HOLD * INTERVAL_S else last_s
        seconds = min(time_s, window[1]) - max(since_s, window[0])
        if seconds > 1e-9:
            found.append((seconds, one))
        last_s = time_s
    return found


@EXAMPLES
@given(joined())
def test_the_join_is_what_its_definition_says(case: tuple[list[Row], list[Span]]) -> None:
    rows, windows = case
    usage = used(rows, *windows)
    for index, window in enumerate(windows):
        parts = held(rows, window)
        length_s = window[1] - window[0]
        assert usage.coverage[index] == close(sum(seconds for seconds, _ in parts) / length_s)
        known = [(seconds, one["utilization_percent"]) for seconds, one in parts]
        known = [(seconds, value) for seconds, value in known if value is not None]
        known_s = sum(seconds for seconds, _ in known)
        mean = sum(seconds * value for seconds, value in known) / known_s if known else math.nan
        assert usage.mean["utilization_percent"][index] == pytest.approx(
            mean, rel=1e-6, abs=1e-6, nan_ok=True
        )
        assert usage.known_s["utilization_percent"][index] == close(known_s)
        peak = max((value for _, value in known), default=math.nan)
        assert usage.peak["utilization_percent"][index] == close(peak)
        masks = [(seconds, one["clocks_event_reasons"]) for seconds, one in parts]
        masks = [(seconds, mask) for seconds, mask in masks if mask is not None]
        for bits, seconds_with in (
            (0x1, usage.idle_s),
            (sum(THROTTLING), usage.throttled_s),
            *((bit, usage.throttled_s_by_reason[name]) for bit, name in THROTTLING.items()),
        ):
            expected = sum(seconds for seconds, mask in masks if mask & bits) if masks else math.nan
            assert seconds_with[index] == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True)


def energy_between(rows: list[Row], window: Span) -> float:
    """The definition: the counter on a straight line between samples no further apart than they may be."""
    known = [(one["t_monotonic_s"], one["energy_mj"]) for one in rows if one["energy_mj"] is not None]
    joules, reached_s = 0.0, window[0]
    for (from_s, from_mj), (to_s, to_mj) in pairwise(known):
        if (
            from_s <= reached_s < to_s
            and to_s - from_s <= LONGEST_HOLD * INTERVAL_S
            and reached_s < window[1]
        ):
            until_s = min(to_s, window[1])
            joules += (to_mj - from_mj) * (until_s - reached_s) / (to_s - from_s) / 1000
            reached_s = until_s
    return joules if reached_s == window[1] else math.nan


@EXAMPLES
@given(joined())
def test_energy_is_the_counter_interpolated_and_unknown_across_a_gap(
    case: tuple[list[Row], list[Span]],
) -> None:
    rows, windows = case
    usage = used(rows, *windows)
    for index, window in enumerate(windows):
        expected = energy_between(rows, window)
        assert usage.energy_j[index] == pytest.approx(expected, rel=1e-9, abs=1e-3, nan_ok=True)


@EXAMPLES
@given(joined(), st.integers(1, 99))
def test_two_halves_of_a_window_make_the_whole(case: tuple[list[Row], list[Span]], part: int) -> None:
    rows, windows = case
    for start_s, end_s in windows:
        middle_s = start_s + (end_s - start_s) * part / 100
        usage = used(rows, (start_s, end_s), (start_s, middle_s), (middle_s, end_s))
        whole, *halves = usage.energy_j
        assert whole == pytest.approx(sum(halves), rel=1e-6, abs=1e-3, nan_ok=True)
        assert usage.covered_s[0] == pytest.approx(usage.covered_s[1:].sum(), abs=1e-6)
        mean, known_s = usage.mean["power_mw"], usage.known_s["power_mw"]
        whole, *halves = np.where(known_s > 0, mean, 0.0) * known_s
        assert whole == pytest.approx(sum(halves), rel=1e-6, abs=1.0)


@EXAMPLES
@given(joined())
def test_a_mean_lies_between_the_values(case: tuple[list[Row], list[Span]]) -> None:
    rows, windows = case
    usage = used(rows, *windows)
    values = [one["power_mw"] for one in rows]
    for mean, peak, coverage in zip(
        usage.mean["power_mw"], usage.peak["power_mw"], usage.coverage, strict=True
    ):
        assert math.isnan(mean) or min(values) <= mean <= peak <= max(values)
        assert 0 <= coverage <= 1 + 1e-6


@EXAMPLES
@given(joined(), st.randoms(use_true_random=False), st.floats(-1e9, 1e9))
def test_neither_the_order_of_rows_nor_the_wall_clock_matters(
    case: tuple[list[Row], list[Span]], random: Any, step_s: float
) -> None:
    rows, windows = case
    before = used(rows, *windows)
    moved = [{**one, "t_unix_s": one["t_unix_s"] + step_s * random.random()} for one in rows]
    random.shuffle(moved)
    after = used(moved, *windows)
    for name in ("coverage", "energy_j", "energy_from_power_j", "throttled_s"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    for name in GPU_GAUGES:
        np.testing.assert_array_equal(before.mean[name], after.mean[name])


@EXAMPLES
@given(st.integers(1, 20), st.data())
def test_a_missing_sample_is_never_filled_in(missing: int, data: st.DataObject) -> None:
    rows = [row(0.5 * k, power_mw=100_000, energy_mj=50_000 * k) for k in range(40)]
    first = data.draw(st.integers(1, 38 - missing))
    usage = used([one for k, one in enumerate(rows) if not first <= k < first + missing], (0.0, 19.5))
    gap_s = 0.5 * (missing + 1)
    assert usage.coverage[0] == close(1.0 if missing == 1 else (19.5 - gap_s + INTERVAL_S) / 19.5)
    assert usage.mean["power_mw"][0] == 100_000
    for energy_j in (usage.energy_j[0], usage.energy_from_power_j[0]):
        assert energy_j == close(1950.0 if missing == 1 else math.nan)


@pytest.mark.parametrize(
    ("counts", "joules"),
    [
        ((2**32 - 100, 2**32 - 50, 50), 0.15),
        ((2**64 - 100, 2**64 - 50, 50), 0.15),
        ((10**9, 10**9 + 50, 20), math.nan),
        ((2**33, 2**33 + 50, 20), math.nan),
        ((2**32 - 100, None, 50), 0.15),
        ((None, 2**32 - 50, 50), math.nan),
    ],
)
def test_a_counter_that_fell_has_wrapped_or_was_reset(counts: tuple, joules: float) -> None:
    rows = [row(0.5 * k, energy_mj=count) for k, count in enumerate([*counts, 70])]
    usage = used(rows, (0.0, 1.0), (1.0, 1.5))
    assert usage.energy_j == close([joules, (70 - counts[-1]) / 1000])


def test_a_window_shorter_than_the_interval_has_the_value_that_holds_there() -> None:
    rows = [row(1.0, power_mw=100_000, energy_mj=0), row(1.5, power_mw=200_000, energy_mj=100_000)]
    usage = used(rows, (1.1, 1.101), (0.9, 0.95), (1.0, 1.5), (1.499, 1.5), (2.0, 2.1), (1.2, 1.2))
    nan = math.nan
    assert usage.mean["power_mw"] == close([200_000, 100_000, 200_000, 200_000, nan, nan])
    assert usage.energy_j == close([0.2, nan, 100, 0.2, nan, nan])
    assert usage.energy_from_power_j == close([0.2, 5, 100, 0.2, nan, nan])


def test_sessions_are_not_joined_across_their_boundary() -> None:
    first = collect([row(t, power_mw=1000, energy_mj=1000 * t) for t in (1, 2, 3)], 1.0)
    second = collect([row(t, power_mw=3000, energy_mj=1000 * t) for t in (5, 6)], 1.0)
    usage = join(merge([first, second]), np.array([1.0, 3.0, 2.5, 5.0]), np.array([3.0, 5.0, 5.5, 6.0]))
    assert usage.energy_j == close([2.0, math.nan, math.nan, 1.0])
    assert usage.coverage == close([1.0, 0.5, 2 / 3, 1.0])
    assert usage.mean["power_mw"] == close([1000, 3000, 2500, 3000])


def test_a_session_that_begins_at_once_adds_no_time() -> None:
    first = collect([row(t, power_mw=1000) for t in (1.0, 2.0)], 1.0)
    second = collect([row(t, power_mw=3000) for t in (2.5, 3.5)], 1.0)
    usage = join(merge([first, second]), np.array([1.0]), np.array([3.5]))
    assert (usage.coverage[0], usage.mean["power_mw"][0]) == (close(1.0), close((1000 + 1.5 * 3000) / 2.5))


def test_what_is_read_less_often_holds_since_its_last_reading() -> None:
    slow = Samples(0.1, GPU_GAUGES, slow_interval_s=1.0)
    for k in range(31):
        is_slow = k % 10 == 0
        slow.add(
            row(k / 10, pcie_rx_kib_s=float(k) if is_slow else None, ecc_corrected=k if is_slow else None)
        )
    usage = join(merge([slow]), np.array([0.25, 0.95]), np.array([0.45, 1.05]))
    assert usage.mean["pcie_rx_kib_s"] == close([10.0, 15.0])
    assert usage.ecc["ecc_corrected"] == close([0.0, 10.0])


def test_errors_are_counted_where_they_came_to_light() -> None:
    rows = [row(0.5 * k, ecc_corrected=count) for k, count in enumerate([5, 5, 8, 8, 2, 3])]
    usage = used(rows, (0.0, 0.75), (0.75, 1.25), (1.25, 2.25), (2.0, 2.5), (2.0, 3.0))
    assert usage.ecc["ecc_corrected"] == close([0, 3, math.nan, 1, math.nan])
    assert increase(merge([collect(rows, 0.5)]), "ecc_corrected") is None
    assert increase(merge([collect(rows[:4], 0.5), collect(rows[4:], 0.5)]), "ecc_corrected") == 4
    assert increase(merge([collect(rows[:1], 0.5)]), "ecc_corrected") is None


def test_nothing_gives_nothing() -> None:
    empty = merge([])
    usage = join(empty, np.array([0.0]), np.array([1.0]))
    assert usage.coverage == [0.0]
    unknown = [
        usage.energy_j,
        usage.energy_from_power_j,
        usage.throttled_s,
        usage.idle_s,
        *usage.ecc.values(),
    ]
    assert np.isnan([*unknown, *usage.mean.values(), *usage.peak.values()]).all()
    assert join(merge([collect([row(1.0)], 1.0)]), np.empty(0), np.empty(0)).energy_j.shape == (0,)


def test_the_host_has_its_own_gauges_and_no_energy() -> None:
    host = collect([row(1.0, cpu_percent=None), row(2.0, cpu_percent=50.0)], 1.0, HOST_GAUGES)
    usage = join(merge([host]), np.array([0.5, 1.0]), np.array([1.5, 2.0]))
    assert usage.mean["cpu_percent"] == close([50.0, 50.0])
    assert usage.known_s["cpu_percent"] == close([0.5, 1.0])
    assert np.isnan(usage.energy_j).all()
    both = concatenate([usage, usage])
    assert both.mean["cpu_percent"].shape == both.coverage.shape == (4,)
