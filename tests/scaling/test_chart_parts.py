import pytest
from matplotlib.figure import Figure

from scaling.chart_parts import (
    decomposed,
    lost,
    parts_charts,
    parts_rows,
    what_does_not_add_up,
    whole,
    why_not_decomposed,
)
from tests.scaling.report_cases import case, decomposition, texts

SLOWER = decomposition(0.09, compute=0.099, data=0.009, stragglers=0.0045, exchange=0.0135, rest=0.0)
FASTER = decomposition(0.09, compute=0.081, exchange=0.018, rest=-0.009)


def test_the_whole_step_is_measured_by_the_ideal_one() -> None:
    assert whole(SLOWER) == pytest.approx(
        {"compute": 100, "slower compute": 10, "data": 10, "stragglers": 5, "exchange": 15, "rest": 0}
    )
    assert whole(FASTER)["compute"] == pytest.approx(90)
    assert whole(FASTER)["slower compute"] == 0
    assert sum(whole(FASTER).values()) == pytest.approx(100)


def test_what_is_lost_adds_up_to_the_step_less_the_ideal_one() -> None:
    assert lost(SLOWER) == pytest.approx(
        {"compute": 0, "slower compute": 10, "data": 10, "stragglers": 5, "exchange": 15, "rest": 0}
    )
    assert lost(FASTER)["slower compute"] == pytest.approx(-10)
    for found in (SLOWER, FASTER):
        step = found["step_s"]["value"] / found["ideal_step_s"]["value"]
        assert sum(lost(found).values()) == pytest.approx(100 * (step - 1))


def test_without_a_base_parts_are_shares_of_the_step() -> None:
    found = decomposition(None, compute=0.09, exchange=0.01)
    assert sum(whole(found).values()) == pytest.approx(100)
    assert [chart.name for chart in parts_charts([case(decomposition=found)], "demo", "weak")] == [
        "demo-weak-parts"
    ]


def test_bars_lie_end_to_end_and_what_is_below_0_to_the_left() -> None:
    cases = [case("tf-mirrored", 2, decomposition=FASTER), case("torch-ddp", 4, decomposition=SLOWER)]
    axes = Figure().subplots()
    parts_charts(cases, "demo", "weak")[0].draw(axes)
    bars = [(bar.get_x(), bar.get_width()) for bars in axes.containers for bar in bars]
    first, second = bars[:6], bars[6:]  # torch-ddp comes first
    assert [round(left) for left, _ in first] == [0, 100, 110, 120, 125, 140]
    assert [round(width) for _, width in second] == [90, 0, 0, 0, 20, -10]
    assert second[5][0] == 0
    assert [label.get_text() for label in axes.get_yticklabels()] == ["torch-ddp 4", "tf-mirrored 2"]
    diamonds = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"]
    assert diamonds == pytest.approx([140, 100])


def test_a_legend_names_the_parts_that_there_are() -> None:
    assert "waiting for data" in texts(parts_charts([case(decomposition=SLOWER)], "demo", "weak")[1])
    told = texts(parts_charts([case(decomposition=FASTER)], "demo", "weak")[1])
    assert "waiting for data" not in told
    assert "exposed communication" in told


def test_what_does_not_add_up_is_said_in_words() -> None:
    assert what_does_not_add_up([case(decomposition=SLOWER)]).startswith(
        "The parts add up to the step within 2 %"
    )
    doubt = what_does_not_add_up([case(decomposition=FASTER), case("tf-horovod", 4, decomposition=SLOWER)])
    assert "2 % of the step or more for torch-ddp 2 (-10.0 %): read" in doubt
    assert what_does_not_add_up([case()]) == ""


def test_why_a_step_was_not_taken_apart_is_said_and_one_worker_is_not_missed() -> None:
    reason = {"reason": "found no steady run without gradient exchange"}
    cases = [case("torch-ddp", count, decomposition=reason) for count in (1, 2, 4)]
    assert decomposed(cases) == []
    assert why_not_decomposed(cases) == [f"Not taken apart: torch-ddp 2 and torch-ddp 4: {reason['reason']}."]


def test_the_table_has_each_part_and_n_a_for_what_cannot_be_told() -> None:
    single = {**SLOWER, "parts": {**SLOWER["parts"], "stragglers": None}}
    (row,) = parts_rows([case(decomposition=single)])
    assert row["waiting for the slowest worker"] == "n/a"
    assert row["exposed communication"].startswith("10.7 %")
    assert row["compute lost"].startswith("9.00 ms")
    assert whole(single)["stragglers"] == 0
