import math
from typing import Any

import numpy as np
import pytest

from telemetry.columns import GPU_GAUGES, collect, merge
from telemetry.join import join
from telemetry.usage import Energy, Timing, Used, add, device_totals, sessions
from tests.telemetry import lawful_run as law
from tests.telemetry.telemetry_rows import end, gpu, host, start


def timing(*rows: law.Row) -> Timing:
    found = Timing()
    for row in rows:
        found.add(row)
    return found


def test_sessions_begin_with_their_start_rows() -> None:
    rows = [
        gpu(0.0),
        start(1, 1.0),
        gpu(2.0),
        host(2.0),
        end(3.0, 1),
        start(2, 4.0, boot_id="ff"),
        gpu(5.0, 1),
    ]
    first, second = sessions([*rows, {"kind": "news"}, {}])
    assert (first.clock, second.clock) == (("node1", "0a1b2c3d"), ("node1", "ff"))
    assert (first.devices.keys(), second.devices.keys()) == ({"GPU-0"}, {"GPU-1"})
    assert first.devices["GPU-0"].column("t_monotonic_s").tolist() == [1002.0]
    assert first.host.column("cpu_percent").tolist() == [50.0]
    assert (first.end is None, second.end is None) == (False, True)


def test_a_host_is_sampled_at_its_own_interval() -> None:
    fast, slow = sessions([start(1, interval_s=0.1, host_interval_s=1.0), gpu(0.0), start(1, interval_s=5.0)])
    assert (fast.host.interval_s, slow.host.interval_s) == (1.0, 5.0)
    assert (fast.devices["GPU-0"].interval_s, fast.devices["GPU-0"].slow_interval_s) == (0.1, 1.0)


def test_the_slowest_rank_counts() -> None:
    slow, fast = law.windows("n1", 100.0, [0, 1]), law.windows("n1", 100.0, [0, 1, 2], pace=0.5)
    other = law.windows("n2", 900.0, [0], pace=2.0)
    slow[1]["data_time_s"] = 0.4
    found = timing(*slow, *fast, *other, {"step": 4}, {"step": 4, "steps": 4, "step_time_s": math.nan})
    assert [column.tolist() for column in found.steps()] == [[4, 8, 12], [4, 4, 4]]
    assert found.slowest("n1") == pytest.approx({"step_time_s": 0.5, "data_time_share": 0.475 / 1.25})
    assert found.slowest() == pytest.approx(
        {"step_time_s": 0.5, "data_time_share": (0.1 + 0.4 + 0.025) / 1.75}
    )
    assert found.slowest("n3") == {"step_time_s": None, "data_time_share": None}
    windows = found.windows(("n1", "00000064"))
    assert (windows.step.tolist(), windows.end_s.tolist()) == ([4, 8, 12], [102.0, 104.0, 106.0])
    assert windows.start_s.tolist() == [100.0, 102.0, 105.0]
    assert found.windows(("n1", "0000")).step.shape == (0,)


@pytest.mark.parametrize("uuid", ["GPU-0DAD-1", "gpu-0dad-1"])
def test_the_newest_segment_that_began_before_a_step_made_it(uuid: str) -> None:
    steps, shown = np.array([1, 4, 5, 8, 9]), np.array([True, False, True, False, True])
    segments = [
        {"first_step": 0},
        {"first_step": 8, "device_uuids": ["x"]},
        {"first_step": 4, "device_uuids": [uuid]},
    ]
    used = Used(segments)
    assert used.by_uuid
    assert used.told(steps).tolist() == [-1, -1, 1, 1, 1]
    assert used.at("GPU-0dad-1", steps, shown).tolist() == [True, False, True, True, True]
    assert used.at("GPU-0bad-1", steps, shown).tolist() == [True, False, False, False, False]
    for nothing in (None, [], [{"device_uuids": [None]}], "segments"):
        assert not Used(nothing).by_uuid
        assert Used(nothing).at("x", steps, shown).tolist() == shown.tolist()


def test_a_frameworks_uuid_need_not_have_nvmls_prefix() -> None:
    bare = "ad2367dd-a40e-6b86-6fc3-c44a2cc92c7e"
    used = Used([{"first_step": 0, "device_uuids": [f"GPU-{bare}"]}])
    assert used.at(f"MIG-{bare}", np.array([1]), np.array([False])).tolist() == [True]


def test_energy_a_sample_is_a_ratio_of_sums_over_the_windows_that_are_known() -> None:
    steps = np.array([10, 20, 30, 40])
    energy = Energy(steps, Used(None))
    energy.add(steps, np.array([100.0, 300.0, math.nan, 7.0]))
    energy.add(steps[:3], np.array([100.0, 500.0, 1.0]))
    energy.no_device(steps[3:])
    ten_each = np.full(4, 10)
    assert energy.per({10: 10, 20: 60, 30: 90, 40: 99}, ten_each) == (1000 / 60, 0.5)
    assert energy.per({20: 60, 30: 90, 40: 99}, ten_each) == (None, 0.0)
    assert Energy(np.empty(0, np.int64), Used(None)).per({}, np.empty(0, np.int64)) == (None, None)


def test_energy_needs_every_device_that_the_ranks_told_of() -> None:
    steps = np.array([1, 2])
    energy = Energy(steps, Used([{"first_step": 0, "device_uuids": ["a", "b"]}]))
    energy.add(steps, np.array([1.0, 1.0]))
    energy.add(steps[:1], np.array([2.0]))
    energy.no_device(steps)  # the ranks' word is better
    assert energy.per({1: 1, 2: 2}, np.array([1, 1])) == (3.0, 0.5)


def test_totals_weigh_windows_by_the_time_that_is_known() -> None:
    rows: list[dict[str, Any]] = [
        {"t_monotonic_s": t, "utilization_percent": u, "energy_mj": 1000 * t}
        for t, u in ((0, 0), (1, 10), (2, 40), (3, None), (4, 90))
    ]
    series = merge([collect(rows, 1.0)])
    whole = device_totals(join(series, np.array([0.0, 1.5, 3.5, 9.0]), np.array([1.0, 3.0, 4.0, 10.0])))
    assert whole["utilization_percent"] == {"mean": pytest.approx((10 + 20 + 45) / 2), "peak": 90}
    assert whole["power_mw"] == {"mean": None, "peak": None}
    assert (whole["windows"], whole["coverage"]) == (4, pytest.approx(3 / 4))
    assert (whole["energy_j"], whole["energy_windows_share"]) == (pytest.approx(3.0), 0.75)
    assert whole["throttled_s"] is whole["idle_s"] is whole["throttled_s_by_reason"]["sw_power_cap"] is None
    assert set(GPU_GAUGES) <= whole.keys()


def test_a_sum_of_nothing_known_is_unknown() -> None:
    assert (add([None, None]), add([]), add([None, 2.0, 1.0])) == (None, None, 3.0)
