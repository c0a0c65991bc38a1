import pytest
from matplotlib.figure import Figure

from scaling.chart_usage import COUNTERS, usage_charts
from tests.scaling.report_cases import case

UNKNOWN = dict.fromkeys(COUNTERS)


def test_a_counter_that_no_run_knows_has_no_chart() -> None:
    cases = [case(workers=count) for count in (1, 2)]
    usage = {one["name"]: {**UNKNOWN, "host_cpu_percent": 40.0 * one["workers"]} for one in cases}
    (chart,) = usage_charts(cases, usage, "demo", "weak")
    assert chart.name == "demo-weak-host-cpu-percent"
    assert usage_charts(cases, {one["name"]: UNKNOWN for one in cases}, "demo", "weak") == []


def test_percents_reach_100_and_an_unknown_value_is_no_point() -> None:
    cases = [case(workers=count) for count in (1, 2, 4)]
    usage = {one["name"]: {**UNKNOWN, "gpu_busy_percent": 90.0, "energy_per_sample_j": 0.5} for one in cases}
    usage[cases[1]["name"]] = UNKNOWN
    busy, energy = usage_charts(cases, usage, "demo", "weak")
    axes = Figure().subplots()
    busy.draw(axes)
    assert list(axes.lines[0].get_ydata()) == [90, 90]
    assert axes.get_ylim() == (0, 105)
    axes = Figure().subplots()
    energy.draw(axes)
    assert axes.get_ylim() == pytest.approx((0, 0.55))
