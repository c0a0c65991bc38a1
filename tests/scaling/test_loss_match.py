import numpy as np
import pytest
from matplotlib.figure import Figure

from scaling.loss_match import difference, groups, loss_charts, shown
from tests.scaling.report_cases import case, losses, texts


def test_a_difference_is_relative_and_over_the_steps_that_both_know() -> None:
    steps, values = difference(
        losses("tf-mirrored", [2.2, None, 1.0, 0.9]), losses("torch-ddp", [2.0, 1.5, 1.0])
    )
    assert steps.tolist() == [1, 3]
    assert values == pytest.approx([0.1, 0.0])


def test_runs_are_compared_where_workers_batch_and_micro_batches_are_equal() -> None:
    runs = [
        losses("tf-mirrored", [2.0, 1.01], id="b"),
        losses("torch-ddp", [2.0, 1.0], id="a"),
        losses("torch-ddp", [2.0, 1.03], id="c", repetition=2),
        losses("torch-ddp", [3.0, 3.0], id="d", global_batch=24),
        losses("torch-ddp", [4.0, 4.0], id="e", micro_batches=4),
    ]
    alone, other, compared = sorted(groups(runs), key=lambda group: len(group.curves))
    assert [curve["id"] for curve in compared.curves] == ["a", "c", "b"]
    assert (compared.worst, compared.worst_step, compared.worst_run) == (pytest.approx(0.03), 2, "c")
    assert compared.first_step_worst == 0
    assert alone.worst is None
    assert other.worst is None


def test_the_largest_group_of_the_section_is_drawn() -> None:
    runs = [
        losses(name, [2.0, 1.0], workers=workers, global_batch=24 * workers, micro_batches=workers)
        for workers in (1, 2, 4)
        for name in ("torch-ddp", "tf-mirrored")
    ]
    found = groups([run for run in runs if (run["workers"], run["strategy"]) != (4, "tf-mirrored")])
    cases = [case(workers=count) for count in (1, 2, 4)]
    assert shown(found, cases, "demo").workers == 2
    assert shown(found, cases, "other") is None
    assert shown(found, [case(workers=2, global_batch=24)], "demo") is None


def test_losses_without_any_difference_are_drawn_as_0() -> None:
    (group,) = groups([losses("torch-ddp", [2.0, 1.0]), losses("torch-horovod", [2.0, 1.0])])
    curves, apart = loss_charts(group, "weak")
    assert {"torch-ddp", "torch-horovod"} <= set(texts(curves))
    assert "0" in texts(apart)


def test_a_difference_of_0_lies_below_the_smallest_other() -> None:
    (group,) = groups(
        [losses("torch-ddp", [2.0, 1.0, 1.0]), losses("tf-mirrored", [2.0, 1 + 3e-7, 1 + 2e-6])]
    )
    axes = Figure().subplots()
    loss_charts(group, "weak")[1].draw(axes)
    (line,) = axes.lines
    assert line.get_ydata() == pytest.approx(np.array([1e-8, 3e-7, 2e-6]), rel=1e-3)
    assert axes.yaxis.get_major_formatter()(1e-8, 0) == "0"
    assert axes.yaxis.get_major_formatter()(1e-6, 0) == "1e-6"


def test_a_loss_that_was_not_finite_leaves_a_gap() -> None:
    (group,) = groups([losses("torch-ddp", [2.0, None, 1.0]), losses("tf-mirrored", [2.0, 1.5, 1.0])])
    axes = Figure().subplots()
    loss_charts(group, "weak")[0].draw(axes)
    assert np.isnan(axes.lines[0].get_ydata()[1])
