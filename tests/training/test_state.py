import numpy as np
import pytest

from models.initial import initial_values
from models.specs import buffer_table, parameter_table
from recipes.bounds import PRECISIONS
from recipes.recipe import load_recipe
from training.loss_scale import LossScale
from training.state import digest, initial_state, misfit


@pytest.mark.parametrize(
    ("name", "moments"), [("verify-resnet", {"momentum"}), ("verify-gpt", {"exp_avg", "exp_avg_sq"})]
)
def test_a_run_starts_from_the_seeds_weights_and_moments_of_zero(name: str, moments: set[str]) -> None:
    recipe = load_recipe(name)
    state = initial_state(recipe)
    values = initial_values(recipe.model, recipe.seed, np.dtype("float64"))
    assert list(state.parameters) == [tensor.name for tensor in parameter_table(recipe.model)]
    assert list(state.buffers) == [tensor.name for tensor in buffer_table(recipe.model)]
    for tensor, array in {**state.parameters, **state.buffers}.items():
        np.testing.assert_array_equal(array, values[tensor])
    assert set(state.moments) == moments
    for arrays in state.moments.values():
        assert list(arrays) == list(state.parameters)
        assert not any(array.any() for array in arrays.values())
    assert state.step == 0


def test_master_weights_have_the_recipes_type_and_the_same_values() -> None:
    wide, *others = (
        initial_state(load_recipe("verify-gpt", (f"precision={precision}",))) for precision in PRECISIONS
    )
    for narrow, precision in zip(others, PRECISIONS[1:], strict=True):
        for name, array in narrow.parameters.items():
            assert array.dtype == narrow.moments["exp_avg"][name].dtype == np.float32
            assert wide.parameters[name].dtype == np.float64
            np.testing.assert_array_equal(array, wide.parameters[name])
        assert narrow.loss_scale == (LossScale(2.0**16, 0, 0) if precision == "fp16" else None)


def test_updates_are_the_steps_that_were_not_skipped() -> None:
    state = initial_state(load_recipe("verify-gpt", ("precision=fp16",)))
    state.step, state.loss_scale = 9, LossScale(4.0, 1, 2)
    assert state.updates == 7
    state.loss_scale = None
    assert state.updates == 9


def test_a_digest_knows_names_shapes_types_and_values_and_not_their_order() -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.ones(2)}
    same = {"b": np.ones(2), "a": np.asfortranarray(arrays["a"])}
    assert digest(arrays) == digest(same)
    others = [
        {**arrays, "c": np.ones(1)},
        {"a": arrays["a"], "d": arrays["b"]},
        {**arrays, "a": arrays["a"].reshape(3, 2)},
        {**arrays, "b": np.ones(2, np.float32)},
        {**arrays, "b": np.nextafter(arrays["b"], 2)},
    ]
    assert len({digest(arrays), *map(digest, others)}) == 6


@pytest.mark.parametrize("name", ["verify-resnet", "verify-gpt"])
def test_a_state_fits_its_own_recipe(name: str) -> None:
    recipe = load_recipe(name)
    assert misfit(recipe, initial_state(recipe)) is None


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda state: state.parameters.pop("wpe.weight"),
            "'wpe.weight': found none, expected float64 [48, 24]",
        ),
        (lambda state: state.parameters.update(x=np.ones(2)), "'x': found float64 [2], expected none"),
        (
            lambda state: state.parameters.update({"wpe.weight": np.ones((24, 48))}),
            "'wpe.weight': found float64 [24, 48], expected float64 [48, 24]",
        ),
        (
            lambda state: state.parameters.update({"wpe.weight": np.ones((48, 24), np.float32)}),
            "'wpe.weight': found float32 [48, 24], expected float64 [48, 24]",
        ),
        (lambda state: state.buffers.update(y=np.ones(())), "'y': found float64 [], expected none"),
        (lambda state: state.moments["exp_avg"].pop("wpe.weight"), "'exp_avg.wpe.weight': found none"),
        (lambda state: state.moments.pop("exp_avg_sq"), "'exp_avg_sq."),
        (lambda state: state.moments.update(momentum={"z": np.ones(1)}), "'momentum.z': found float64 [1]"),
    ],
)
def test_the_first_tensor_that_does_not_fit_is_named(spoil, told: str) -> None:
    recipe = load_recipe("verify-gpt", ("model.context=48", "model.width=24"))
    state = initial_state(recipe)
    spoil(state)
    assert misfit(recipe, state).startswith(told)


def test_a_loss_scale_belongs_to_fp16_alone() -> None:
    wide, half = (load_recipe("verify-gpt", (f"precision={precision}",)) for precision in ("float32", "fp16"))
    assert misfit(half, initial_state(half)) is None
    assert misfit(half, initial_state(wide)).startswith("loss scale: found None, expected one in fp16")
    assert misfit(wide, initial_state(half)).startswith("loss scale: found LossScale(")
