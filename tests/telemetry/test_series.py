import numpy as np
import pytest

from telemetry.series import Gpu, drawn, read_host
from tests.telemetry.telemetry_rows import end, gpu, host, run, start, times


def one_gpu(*samples: dict, num_gpus: int = 1) -> Gpu:
    return read_host([start(num_gpus), *samples]).gpus[0]


def test_each_device_has_its_own_samples_in_seconds_since_the_start() -> None:
    found = read_host(
        [start(2), host(0.0, None), gpu(0.5, 1, power_mw=5), gpu(0.0, 0), host(1.0), gpu(1.0, 0)]
    )
    assert [(gpu.label, gpu.line.time_s.tolist()) for gpu in found.gpus] == [
        ("GPU 0", [0, 1]),
        ("GPU 1", [0.5]),
    ]
    assert found.line.values["cpu_percent"].tolist() == pytest.approx([np.nan, 50.0], nan_ok=True)
    assert found.gpus[1].line.values["power_mw"].tolist() == [5]
    assert not found.gpus[0].line.known("power_mw")
    assert found.gpus[0].line.mean("power_mw") is None
    assert found.gpus[0].line.peak("power_mw") is None


def test_mig_instances_of_a_gpu_are_told_apart() -> None:
    instances = [{**start()["devices"][0], "uuid": f"MIG-{i}", "parent_uuid": "GPU-0"} for i in range(2)]
    assert [gpu.label for gpu in read_host([start(devices=instances)]).gpus] == ["GPU 0 MIG 0", "GPU 0 MIG 1"]


def test_a_gap_is_left_open_and_stands_for_nothing() -> None:
    line = one_gpu(
        *(gpu(t, utilization_percent=u) for t, u in ((0, 0), (1, 0), (1.9, 90), (6, 0), (7, 0)))
    ).line
    assert line.begins.tolist() == [True, False, False, True, False]
    assert line.spans(np.ones(5, bool)) == [pytest.approx((0, 2.4)), pytest.approx((5.5, 7.5))]
    assert line.spans(line.values["utilization_percent"] == 0) == [
        pytest.approx((0, 1.45)), pytest.approx((5.5, 7.5)),
    ]  # fmt: skip
    assert line.seconds(np.ones(5, bool)) == pytest.approx(2.4 + 2)
    assert line.mean("utilization_percent") == pytest.approx(90 * 0.95 / 4.4)
    time_s, _, mean, _ = drawn(line, line.values["utilization_percent"], most=100)
    assert mean.tolist() == pytest.approx([0, 0, 90, np.nan, 0, 0], nan_ok=True)
    assert (np.diff(time_s) > 0).all()


def test_idle_is_no_kernel_or_the_idle_reason_and_unknown_is_neither() -> None:
    masks = (None, 0x1, 0x4, None, 0x48)
    busy = (0, 40, 50, None, 60)
    found = one_gpu(
        *(
            gpu(t, utilization_percent=percent, clocks_event_reasons=mask)
            for t, (percent, mask) in enumerate(zip(busy, masks, strict=True))
        )
    )
    assert found.idle().tolist() == [True, True, False, False, False]
    assert found.has_reason(0x4).tolist() == [False, False, True, False, False]
    assert found.has_reason(0x8 | 0x40).tolist() == [False, False, False, False, True]


@pytest.mark.parametrize(
    ("counter", "energy_j"),
    [
        ([5_000, 6_000, 9_500], 4.5),
        ([5_000, None, 9_500], 4.5),
        ([5_000, 6_000, 200, 700], 1.7),  # began anew at 0
        ([None, 5_000], None),
        ([None, None], None),
    ],
)
def test_energy_is_the_counters_growth(counter: list[int | None], energy_j: float | None) -> None:
    assert one_gpu(*(gpu(t, energy_mj=value) for t, value in enumerate(counter))).energy_j() == energy_j


def test_what_was_used_between_two_sessions_is_not_the_runs() -> None:
    first = [start(), gpu(0, energy_mj=1_000), gpu(1, energy_mj=2_000)]
    second = [start(time_s=100), gpu(100, energy_mj=50_000), gpu(101, energy_mj=53_000), end(101, 2)]
    found = read_host([*first, *second])
    assert found.gpus[0].energy_j() == 4.0
    assert found.gpus[0].line.time_s.tolist() == [0, 1, 100, 101]
    assert found.gpus[0].line.session.tolist() == [0, 0, 1, 1]
    assert [end is None for end in found.ends] == [True, False]


def test_sessions_follow_each_other_over_a_reboot_and_a_clock_set_back() -> None:
    rebooted = {"t_monotonic_s": 7.0, "t_unix_s": times(60)["t_unix_s"]}
    rows = [start(), host(0), host(1), start() | rebooted, host(0) | rebooted | {"t_monotonic_s": 7.5}]
    assert read_host(rows).line.time_s.tolist() == [0, 1, 60.5]
    rows[3]["t_unix_s"] -= 3600
    assert read_host(rows).line.time_s.tolist() == [0, 1, 1.5]


def test_a_lost_gpu_has_no_more_samples() -> None:
    found = one_gpu(gpu(0, power_mw=1), gpu(1, lost="GPU is lost"), num_gpus=2)
    assert found.lost == (1.0, "GPU is lost")
    assert found.line.time_s.tolist() == [0]


def test_a_slower_host_has_no_gaps() -> None:
    rows = [start(interval_s=0.1, host_interval_s=1.0), *(host(t) for t in range(4))]
    assert read_host(rows).line.begins.tolist() == [True, False, False, False]


def test_a_long_run_is_drawn_with_few_points_and_keeps_mean_peaks_and_gaps() -> None:
    found = read_host(run(1, 50_000, gap=(20_000, 20_300))).gpus[0].line
    values = found.values["power_mw"].copy()
    values[33_333] = 1e9
    time_s, low, mean, high = drawn(found, values, most=2000)
    assert 990 <= len(time_s) <= 1002
    assert np.nanmax(high) == 1e9
    assert np.nanmin(low) == np.nanmin(values)
    assert np.nanmean(mean) == pytest.approx(values.mean(), rel=1e-2)
    inside = (time_s > 20_000) & (time_s < 20_300)
    assert inside.any()
    assert np.isnan(mean[inside]).all()
    assert np.isnan(mean).sum() == 1


def test_the_share_of_a_bucket() -> None:
    line = one_gpu(*(gpu(t, utilization_percent=100 * (t < 2)) for t in range(4))).line
    edges_s, share = line.share(line.values["utilization_percent"] == 0, most=7)
    assert edges_s.tolist() == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5])
    assert share.tolist() == pytest.approx([0, 0, 0, 1, 1, 1, 1])


def test_rows_without_a_start_are_refused() -> None:
    with pytest.raises(ValueError, match="found no start row"):
        read_host([])
    with pytest.raises(ValueError, match="found a row 'host', expected a start row before it"):
        read_host([host(0)])
