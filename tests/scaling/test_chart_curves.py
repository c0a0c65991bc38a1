import pytest
from matplotlib.figure import Figure

from scaling.chart_curves import around, curves, draw_lines, efficiency_chart, speed_up_chart
from tests.scaling.report_cases import case, estimate, texts

CASES = [case("torch-ddp", count, 1 - 0.02 * count) for count in (4, 1, 2)]
USL = {
    "strategy": "torch-ddp",
    "law": "usl",
    "parameters": {"contention": estimate(0.02), "coherency": estimate(0.001)},
}


def test_a_line_is_a_strategy_on_one_node_or_several_by_workers() -> None:
    far = [case("torch-ddp", 8, 0.7, nodes=2), case("tf-mirrored", 2, None), case("tf-horovod", 2)]
    lines = curves([*CASES, *far], "efficiency")
    assert [(name, several, [one["workers"] for one in own]) for name, several, own in lines] == [
        ("torch-ddp", False, [1, 2, 4]),
        ("torch-ddp", True, [8]),
        ("tf-horovod", False, [2]),
    ]


def test_values_and_intervals_are_drawn_where_they_are() -> None:
    axes = Figure().subplots()
    drawn = draw_lines(curves(CASES, "efficiency"), "efficiency", 100, axes)
    line, _, (bars,) = axes.containers[0]
    assert list(line.get_xdata()) == [1, 2, 4]
    assert line.get_ydata() == pytest.approx([98, 96, 92])
    ends = [tuple(one[:, 1]) for one in bars.get_segments()]
    assert ends == [pytest.approx((value * 0.99, value * 1.01)) for value in (98, 96, 92)]
    assert drawn == pytest.approx((92 * 0.99, 98 * 1.01))


def test_a_figure_from_one_repetition_has_no_interval_but_is_drawn() -> None:
    one = {**case(), "efficiency": estimate(0.9, None)}
    axes = Figure().subplots()
    assert draw_lines(curves([one], "efficiency"), "efficiency", 100, axes) == pytest.approx((90, 90))


@pytest.mark.parametrize(
    "ends, limits", [((97, 99), (75, 105)), ((40, 130), (30, 140)), ((1, 100), (0, 110))]
)
def test_an_axis_is_never_so_narrow_that_noise_looks_large(ends: tuple, limits: tuple) -> None:
    assert around(*ends) == limits


def test_both_charts_name_what_they_show() -> None:
    fits = [USL, {**USL, "law": "gustafson"}, {**USL, "strategy": "tf-horovod", "parameters": None}]
    for chart in (
        efficiency_chart(CASES, "a/demo.toml", "weak"),
        speed_up_chart(CASES, fits, "demo", "weak"),
    ):
        assert {"torch-ddp", "ideal", "1", "2", "4", "workers"} <= set(texts(chart))
        assert chart.name.startswith("demo-weak-")
    assert "fitted" in speed_up_chart(CASES, fits, "demo", "weak").text
    assert "fitted" not in speed_up_chart(CASES, fits[2:], "demo", "weak").text


def test_the_fitted_law_goes_through_the_axes() -> None:
    axes = Figure().subplots()
    speed_up_chart(CASES, [USL], "demo", "weak").draw(axes)
    law = [line for line in axes.lines if len(line.get_xdata()) == 60]
    assert len(law) == 1
    assert law[0].get_ydata()[-1] == pytest.approx(4 / (1 + 0.02 * 3 + 0.001 * 4 * 3))


def test_without_an_efficiency_there_is_no_chart() -> None:
    assert efficiency_chart([case(efficiency=None)], "demo", "weak") is None
    assert speed_up_chart([case(efficiency=None)], [], "demo", "weak") is None
