import math

import numpy as np
import pytest

from telemetry.columns import BLOCK, GPU_GAUGES, HOST_GAUGES, Samples, collect, merge


def sample(time_s: float, **values: object) -> dict:
    return {"kind": "gpu", "t_monotonic_s": time_s, "t_unix_s": 1.7e9, **values}


@pytest.mark.parametrize("value", [None, "95", True, math.nan, math.inf, 10**400, [1]])
def test_what_is_no_number_is_unknown(value: object) -> None:
    rows = [
        sample(1.0, utilization_percent=7, energy_mj=7),
        sample(2.0, utilization_percent=value, energy_mj=value),
    ]
    series = merge([collect(rows, 1.0)])
    np.testing.assert_array_equal(series.gauges["utilization_percent"], [7.0, np.nan])
    assert series.integers["energy_mj"][1].tolist() == [True, False]


def test_a_counter_keeps_all_64_bits() -> None:
    counts = [2**64 - 1, 2**63 + 1, -1, 2**64, 1.5]
    values, known = merge([collect([sample(t, energy_mj=n) for t, n in enumerate(counts)], 1.0)]).integers[
        "energy_mj"
    ]
    assert values[:2].tolist() == counts[:2]
    assert known.tolist() == [True, True, False, False, False]


def test_more_rows_than_a_block_and_none_at_all() -> None:
    rows = [sample(float(t), power_mw=t) for t in range(2 * BLOCK + 3)]
    assert merge([collect(rows, 1.0)]).gauges["power_mw"].tolist() == [float(t) for t in range(2 * BLOCK + 3)]
    for empty in (merge([]), merge([Samples(1.0, GPU_GAUGES), Samples(1.0, GPU_GAUGES)])):
        assert (
            empty.time_s.shape
            == empty.gauges["power_mw"].shape
            == empty.integers["energy_mj"][0].shape
            == (0,)
        )
    assert set(merge([Samples(1.0, HOST_GAUGES)]).gauges) == set(HOST_GAUGES)


def test_rows_without_a_time_and_of_a_lost_device_are_no_samples() -> None:
    rows = [sample(1.0), sample(2.0, lost="GPU is lost"), {"kind": "gpu"}, sample(math.nan)]
    assert merge([collect(rows, 1.0)]).time_s.tolist() == [1.0]


def test_samples_are_sorted_by_time_and_those_of_the_same_time_are_one() -> None:
    rows = [sample(t, power_mw=t) for t in (3.0, 1.0, 2.0, 1.0)]
    series = merge([collect(rows, 1.0)])
    assert series.time_s.tolist() == series.gauges["power_mw"].tolist() == [1.0, 2.0, 3.0]


def test_of_sessions_that_overlap_the_later_one_is_taken() -> None:
    first = collect([sample(t, power_mw=1) for t in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)], 1.0)
    second = collect([sample(t, power_mw=2) for t in (1.5, 2.5, 3.5)], 0.5, GPU_GAUGES)
    series = merge([first, second])
    assert series.time_s.tolist() == [0.0, 1.0, 1.5, 2.5, 3.5, 4.0, 5.0]
    assert series.gauges["power_mw"].tolist() == [1, 1, 2, 2, 2, 1, 1]
    assert series.session.tolist() == [0, 0, 1, 1, 1, 0, 0]
    assert series.interval_s.tolist() == [1, 1, 0.5, 0.5, 0.5, 1, 1]
