"""Read from what scaling.predict really writes, so that the two cannot drift apart."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from scaling import predict
from scaling.chart_prediction import prediction_charts, prediction_rows, read_predictions
from tests.scaling import measured_cases
from tests.scaling.report_cases import case
from training.options import parse


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> list:
    folder = tmp_path_factory.mktemp("study")
    measured_cases.write_study(folder, measured_cases.case())
    with pytest.MonkeyPatch.context() as patch:
        words = [str(folder), "--workers", "4,64"]
        patch.setattr(predict, "parse", lambda kind, program: parse(kind, program, words))
        predict.main()
    return read_predictions(folder)


def test_a_row_each_case_and_number_of_workers(predicted: list) -> None:
    rows = prediction_rows(predicted)
    assert [row["workers"] for row in rows] == ["4", "64"]
    first = predicted[0]["predictions"][0]
    assert rows[0]["efficiency"].startswith(f"{100 * first['efficiency']:.1f} % [")
    assert rows[0]["step"].startswith(f"{1e3 * first['step']['step_s']:.4g} ms [")


def test_predicted_points_stand_beside_measured_ones(predicted: list) -> None:
    recipe, scaling, strategy = (predicted[0][name] for name in ("recipe", "scaling", "strategy"))
    mine = case(strategy, 2, 0.9, recipe=recipe, scaling=scaling)
    (chart,) = prediction_charts(predicted, [mine, case(strategy, 8, 0.5, recipe="another")])
    axes = Figure().subplots()
    chart.draw(axes)
    measured, expected = axes.containers
    assert list(measured[0].get_xdata()) == [2]
    assert list(expected[0].get_xdata()) == [4, 64]
    assert expected[0].get_markerfacecolor() == "none"
    values = [100 * one["efficiency"] for one in predicted[0]["predictions"]]
    assert list(expected[0].get_ydata()) == pytest.approx(values)


@pytest.mark.parametrize("text", [None, "no JSON", '{"format": 1}', "[]"])
def test_without_a_prediction_there_is_none(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "prediction.json").write_text(text)
    assert read_predictions(tmp_path) == []
