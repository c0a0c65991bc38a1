"""What verify would say of two run directories, on directories made by hand."""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from launchers.comparison import (
    Comparison,
    bounds_for,
    compare_fingerprints,
    compare_one_step,
    compare_statistics,
    compare_trajectory,
    control_difference,
    rounding_of,
    widened,
)
from recipes.recipe import load_recipe
from training import checkpoint
from training.loss_scale import LossScale
from training.state import State, initial_state
from training.update_rule import global_norm, updated

SMALL = ("steps=3", "model.num_layers=1", "model.width=4", "model.context=8", "model.vocabulary=16")
RECIPE = load_recipe("verify-gpt", SMALL)
NAME = "h.0.mlp.c_fc.weight"
OTHERS = ("float32", "tf32", "bf16", "fp16")
"""The precisions that are compared in one-step mode only."""


def write_rows(folder: Path, rows: list[dict]) -> None:
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_state(folder: Path, state: State) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    checkpoint.write_state(folder, state, recipe_id=RECIPE.recipe_id, extra={}, durable=False)


def make_run(folder: Path) -> Path:
    """Three steps of random gradients: rows, replayed steps and checkpoints, as the reference leaves them."""
    rng = np.random.default_rng(7)
    state, rows = initial_state(RECIPE), []
    for step in (1, 2, 3):
        gradients = {name: rng.standard_normal(value.shape) for name, value in state.parameters.items()}
        state = updated(state, gradients, 1e-3 * step, RECIPE.optimizer)
        state.buffers = {"bn.running_mean": np.full(2, float(step))}
        rows.append(
            {
                "step": step,
                "loss": 5.0 / step,
                "learning_rate": 1e-3 * step,
                "grad_norm": global_norm(gradients),
                "sample_digest": f"{step:016x}",
            }
        )
        write_state(folder / "checkpoints" / f"step-{step:08d}", state)
        write_state(folder / "replay" / f"step-{step:08d}", replace(state, gradients=gradients))
    for place in (folder, folder / "replay"):
        write_rows(place, rows)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("reference") / "run")


@pytest.fixture
def ours(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "ours")


def edit_row(folder: Path, step: int, **change: object) -> None:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    write_rows(folder, [{**row, **change} if row["step"] == step else row for row in rows])


def edit_state(folder: Path, edit: Callable[[State], None]) -> None:
    state, _ = checkpoint.load(folder)
    edit(state)
    write_state(folder, state)


def retake_step(
    folder: Path, before: Path | None, edit_gradients=lambda g: None, config=RECIPE.optimizer
) -> None:
    """Make a replayed step anew, consistently, from edited gradients or by another rule."""
    row = json.loads((folder.parent / "metrics.jsonl").read_text().splitlines()[int(folder.name[-1]) - 1])
    start = initial_state(RECIPE) if before is None else checkpoint.load(before)[0]
    gradients = checkpoint.load(folder)[0].gradients
    edit_gradients(gradients)
    after = updated(start, gradients, row["learning_rate"], config)
    write_state(folder, replace(after, gradients=gradients))


def one_step(original: Path, ours: Path) -> Comparison:
    result = Comparison()
    compare_one_step(RECIPE, original, ours, result)
    return result


def trajectory(original: Path, ours: Path) -> Comparison:
    result = Comparison()
    compare_trajectory(RECIPE, original, ours, result)
    return result


def failed(result: Comparison) -> set[str]:
    assert result.passes == (not result.failures())
    return {kind for kind, worst in result.worst.items() if not worst.passes}


def test_a_copy_is_alike_in_both_modes_to_the_last_bit(original: Path, ours: Path) -> None:
    first, second = one_step(original, ours), trajectory(original, ours)
    assert first.passes
    assert second.passes
    assert set(first.worst) == {"loss", "gradient", "gradient norm", "update", "parameters"}
    assert {kind: worst.value for kind, worst in first.worst.items() if kind != "update"} == {
        "loss": 0.0,
        "gradient": 0.0,
        "gradient norm": 0.0,
        "parameters": 0.0,
    }
    assert all(len(worst.seen) >= 3 for worst in (*first.worst.values(), second.worst["trajectory loss"]))


def test_a_loss_is_told_with_its_step(original: Path, ours: Path) -> None:
    edit_row(ours / "replay", 2, loss=2.5 * (1 + 1e-11))
    result = one_step(original, ours)
    assert failed(result) == {"loss"}
    (line,) = result.failures()
    assert line.startswith("loss: first over 1e-12 at step 2: 1.00e-11")


@pytest.mark.parametrize("change", [{"loss": None}, {"loss": float("nan")}, {"grad_norm": None}])
def test_a_value_that_is_no_number_never_passes(original: Path, ours: Path, change: dict) -> None:
    edit_row(ours / "replay", 2, **change)
    assert not one_step(original, ours).passes
    edit_row(ours, 2, **change)
    assert not trajectory(original, ours).passes


def test_a_gradient_is_told_with_its_parameter_even_where_the_update_follows_from_it(
    original: Path, ours: Path
) -> None:
    def lean(gradients: dict) -> None:
        gradients[NAME][0, 0] += 1e-8

    retake_step(ours / "replay" / "step-00000002", original / "checkpoints" / "step-00000001", lean)
    result = one_step(original, ours)
    assert failed(result) == {"gradient"}
    assert f"step 2, {NAME}" in result.failures()[0]


def test_another_update_rule_is_told_even_where_the_gradients_are_the_same(
    original: Path, ours: Path
) -> None:
    other = replace(RECIPE.optimizer, eps=1.1e-8)
    retake_step(ours / "replay" / "step-00000001", None, config=other)
    assert "update" in failed(one_step(original, ours))


@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq"])
def test_a_moment_is_held_to_the_rule(original: Path, ours: Path, moment: str) -> None:
    def lean(state: State) -> None:
        state.moments[moment][NAME][0, 0] += 1e-11

    edit_state(ours / "replay" / "step-00000003", lean)
    result = one_step(original, ours)
    assert failed(result) == {"update"}
    assert f"step 3, {moment} of {NAME}" in result.failures()[0]


def test_parameters_are_told(original: Path, ours: Path) -> None:
    def lean(state: State) -> None:
        state.parameters["wte.weight"][1, 1] += 1e-5

    edit_state(ours / "replay" / "step-00000001", lean)
    assert failed(one_step(original, ours)) == {"update", "parameters"}
    edit_state(ours / "checkpoints" / "step-00000003", lean)
    result = trajectory(original, ours)
    assert failed(result) == {"trajectory parameters"}
    assert "wte.weight" in result.failures()[0]


@pytest.mark.parametrize("key", ["learning_rate", "sample_digest"])
@pytest.mark.parametrize("mode", [one_step, trajectory])
def test_rates_and_samples_are_equal_to_the_last_bit(original: Path, ours: Path, key: str, mode) -> None:
    changed = {"learning_rate": float(np.nextafter(2e-3, 1)), "sample_digest": "0" * 16}[key]
    for place in (ours, ours / "replay"):
        edit_row(place, 2, **{key: changed})
    result = mode(original, ours)
    assert not result.passes
    assert [line for line in result.mismatches if line.startswith(f"step 2: {key} ")]


@pytest.mark.parametrize(
    ("change", "kind"),
    [({"loss": 2.5 * (1 + 2e-9)}, "trajectory loss"), ({"grad_norm": 1.0}, "trajectory norm")],
)
def test_a_trajectory_that_strays_is_told(original: Path, ours: Path, change: dict, kind: str) -> None:
    edit_row(ours, 2, **change)
    assert failed(trajectory(original, ours)) == {kind}


def test_a_run_that_is_too_short_or_too_long_never_passes(original: Path, ours: Path) -> None:
    for place, mode in ((ours / "replay", one_step), (ours, trajectory)):
        lines = (place / "metrics.jsonl").read_text().splitlines(keepends=True)
        (place / "metrics.jsonl").write_text("".join(lines[:2]))
        assert "found 2 steps, expected 3" in mode(original, ours).mismatches[0]
        (place / "metrics.jsonl").write_text("")
        assert not mode(original, ours).passes
    further = [*map(json.loads, (original / "metrics.jsonl").read_text().splitlines())]
    write_rows(ours, [*further, {**further[-1], "step": 4}])
    assert "step 4: the reference has none" in trajectory(original, ours).mismatches


def test_statistics_are_compared_step_by_step(original: Path, ours: Path) -> None:
    first, second = one_step(original, ours), one_step(original, ours)
    compare_statistics(RECIPE, first, second)
    assert second.passes
    assert second.worst["statistics"].value == 0.0
    second.buffers = copy.deepcopy(second.buffers)
    second.buffers[2]["bn.running_mean"][1] *= 1 + 1e-9
    compare_statistics(RECIPE, first, second)
    assert failed(second) == {"statistics"}
    assert "step 2, bn.running_mean" in second.failures()[0]


def test_the_control_is_the_worst_of_all_perturbed_runs(original: Path, ours: Path, tmp_path: Path) -> None:
    wilder = shutil.copytree(original, tmp_path / "wilder")
    assert control_difference(original, [ours, wilder]) == 0.0
    edit_row(ours, 3, loss=5.0 / 3 * (1 + 1e-11))
    edit_row(wilder, 1, loss=5.0 * (1 + 1e-9))
    assert control_difference(original, [ours, wilder]) == pytest.approx(1e-9, rel=1e-4)


def test_a_fingerprint_that_differs_is_told() -> None:
    mine = {
        "recipe_id": "a",
        "parameter_count": 3,
        "precision": "float64",
        "digests": {"data": "x", "order": "y"},
    }
    for change, told in (
        ({"recipe_id": "b"}, "recipe_id: found b, expected a"),
        ({"parameter_count": 4}, "parameter_count: found 4, expected 3"),
        ({"digests": {"data": "x", "order": "z"}}, "digest of order: found z, expected y"),
        ({"digests": {"data": "x"}}, "digest of order: found None, expected y"),
    ):
        result = Comparison()
        compare_fingerprints(mine, {**mine, **change}, result)
        assert result.mismatches == [told]
    result = Comparison()
    compare_fingerprints(mine, copy.deepcopy(mine), result)
    assert result.passes


def test_the_bounds_are_those_of_the_design() -> None:
    adamw, sgd, single, tf32, bf16, fp16 = (
        bounds_for(load_recipe("verify-gpt", (change,)))
        for change in ("seed=3", "optimizer.name=sgd", *(f"precision={p}" for p in OTHERS))
    )
    assert (sgd.loss, sgd.gradient, sgd.update, sgd.parameters) == (1e-12, 1e-10, 1e-12, 1e-9)
    assert adamw.parameters == pytest.approx(1e-9 + 1e-3 * 1e-3)
    assert (sgd.trajectory_loss, sgd.trajectory_parameters, sgd.control) == (1e-9, 1e-8, 1e-10)
    assert (single.loss, single.gradient, single.trajectory_loss) == (1e-5, 1e-4, None)
    assert tf32 == single
    # In half precision the control alone decides, and the update is held to float32's bound.
    assert bf16 == fp16 == replace(single, loss=0.0, gradient=0.0)
    for bounds in (single, bf16):
        wider = widened(bounds, {"loss": 2e-3, "gradient": 0.02})
        assert (wider.loss, wider.gradient, wider.update) == (pytest.approx(2e-2), pytest.approx(0.2), 2e-6)
    assert widened(single, {"loss": 1e-9, "gradient": 1e-9}) == single


def overflowed(original: Path, folder: Path, loss: float, scale: LossScale | None) -> Path:
    """A copy of an fp16 run whose second step met gradients that are not finite."""
    copied = shutil.copytree(original, folder)
    for place in ("checkpoints", "replay"):
        for step in (1, 2, 3):
            edit_state(copied / place / f"step-{step:08d}", lambda s: setattr(s, "loss_scale", scale))
    if scale is None:
        return copied
    before = copied / "checkpoints" / "step-00000001"
    edit_state(copied / "replay" / "step-00000001", lambda s: setattr(s, "loss_scale", LossScale(8.0, 1, 0)))
    retake_step(copied / "replay" / "step-00000002", before, lambda g: g[NAME].fill(np.inf))
    edit_row(copied / "replay", 2, loss=loss, grad_norm=None)
    return copied


def test_a_step_that_fp16_skips_is_no_measure_but_must_be_skipped_by_all(
    original: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("launchers.comparison.initial_state", lambda recipe: start)
    start = replace(initial_state(RECIPE), loss_scale=LossScale(8.0, 0, 0))
    ours, theirs = (overflowed(original, tmp_path / n, 5.0, LossScale(8.0, 1, 0)) for n in ("a", "b"))
    third = tmp_path / "a" / "replay" / "step-00000003"
    for run in (ours, theirs):
        third = run / "replay" / "step-00000003"
        retake_step(third, run / "checkpoints" / "step-00000002")
    result = one_step(theirs, ours)
    assert result.failures() == []
    exact = overflowed(original, tmp_path / "exact", 5.0, None)
    told = one_step(theirs, exact)
    assert "step 2: made an update, which the reference skipped" in told.mismatches
    assert np.isfinite(rounding_of(RECIPE, theirs, exact)["gradient"])  # a control in float64 skips none
    edit_state(ours / "replay" / "step-00000002", lambda s: setattr(s, "loss_scale", LossScale(8.0, 0, 1)))
    assert [line for line in one_step(theirs, ours).mismatches if line.startswith("step 2: loss scale")]
