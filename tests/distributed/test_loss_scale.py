"""fp16's loss scale on the device, in both frameworks: the rule of training/loss_scale.py, at every optimizer."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import torch

from distributed import (
    loss_scale_tf,
    loss_scale_torch,
    optimizer_tf,
    optimizer_torch,
    toolbox_tf,
    toolbox_torch,
)
from models.layout_tf import named_variables, to_framework
from models.specs import parameter_table
from recipes.recipe import Recipe, load_recipe
from training import loss_scale
from training.loss_scale import LossScale
from training.state import State, initial_state
from training.update_rule import updated

SMALL = ("precision=fp16", "model.num_layers=1", "model.width=4", "model.context=8", "model.vocabulary=16")
RECIPES = {
    "adamw": load_recipe("verify-gpt", SMALL),
    "sgd": load_recipe("verify-gpt", (*SMALL, "optimizer.name=sgd", "optimizer.learning_rate=0.1")),
    "adamw-foreach": load_recipe("verify-gpt", (*SMALL, "performance.fused_optimizer=false")),
}
FINITE = (True, True, False, True, True, True, True, False, False, True)


def run_of(recipe: Recipe) -> SimpleNamespace:
    """What of a run the optimizers read."""
    options, world = SimpleNamespace(perturb_gradients=None), SimpleNamespace(is_main=True)
    return SimpleNamespace(recipe=recipe, records_gradients=True, options=options, world=world)


class Torch:
    """What the scripts of PyTorch do with gradients that are given."""

    def __init__(self, recipe: Recipe) -> None:
        self.run = run = run_of(recipe)
        self.model = toolbox_torch.build_model(run, torch.device("cpu"))
        self.optimizer = optimizer_torch.Optimizer(self.model, run)
        toolbox_torch.restore_state(self.model, self.optimizer, initial_state(recipe))

    def step(self, gradients: dict, rate: float) -> float:
        scale = self.optimizer.scaled(torch.ones(()))
        for name, parameter in self.optimizer.parameters.items():
            parameter.grad = torch.from_numpy(gradients[name]) * scale
        return float(self.optimizer.apply(rate))

    def state(self, step: int) -> State:
        return toolbox_torch.export_state(self.model, self.optimizer, self.run, step, State(0, {}, {}))

    def restore(self, state: State) -> None:
        toolbox_torch.restore_state(self.model, self.optimizer, state)


class TensorFlow:
    """The same of TensorFlow."""

    def __init__(self, recipe: Recipe) -> None:
        self.run = run = run_of(recipe)
        self.model = toolbox_tf.build_model(run)
        self.optimizer = optimizer_tf.Optimizer(self.model, run)
        self.kinds = {tensor.name: tensor.kind for tensor in parameter_table(recipe.model)}
        self.restore(initial_state(recipe))

        @tf.function(autograph=False)
        def apply(gradients, rate):
            scale = self.optimizer.scaled(tf.ones([]))
            return self.optimizer.apply([gradient * scale for gradient in gradients], rate)

        self.apply = apply

    def step(self, gradients: dict, rate: float) -> float:
        given = [
            tf.constant(to_framework(gradients[name], self.kinds[name]))
            for name in named_variables(self.model)
        ]
        return float(self.apply(given, tf.constant(rate, tf.float64)))

    def state(self, step: int) -> State:
        return toolbox_tf.export_state(self.model, self.optimizer, self.run, step, State(0, {}, {}))

    def restore(self, state: State) -> None:
        toolbox_tf.restore_state(self.model, self.optimizer, state)


def gradients_of(recipe: Recipe, rng: np.random.Generator, finite: bool) -> dict:
    shapes = {tensor.name: tensor.shape for tensor in parameter_table(recipe.model)}
    gradients = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    if not finite:
        gradients["h.0.mlp.c_fc.weight"][1, 2] = np.inf
    return gradients


@pytest.mark.parametrize("framework", [Torch, TensorFlow])
@pytest.mark.parametrize("name", RECIPES)
def test_an_overflow_is_skipped_and_the_scale_follows_the_rule(framework, name, monkeypatch):
    monkeypatch.setattr(loss_scale, "GROWTH_INTERVAL", 3)
    recipe, rng = RECIPES[name], np.random.default_rng(3)
    ours, expected = framework(recipe), initial_state(recipe)
    assert ours.state(0).loss_scale == LossScale(2.0**16, 0, 0)
    for step, finite in enumerate(FINITE, start=1):
        gradients = gradients_of(recipe, rng, finite)
        if step == 6:  # as after --resume: the bias correction goes on from the updates, not from the steps
            state, ours = ours.state(5), framework(recipe)
            ours.restore(state)
        before = ours.state(step - 1)
        norm = ours.step(gradients, 0.01 * step)
        assert math.isfinite(norm) == finite
        expected = updated(expected, gradients, 0.01 * step, recipe.optimizer)
        after = ours.state(step)
        assert after.loss_scale == expected.loss_scale
        assert after.updates == sum(FINITE[:step])
        for name, array in expected.parameters.items():
            np.testing.assert_allclose(after.parameters[name], array, rtol=0, atol=1e-6)
            if not finite:
                np.testing.assert_array_equal(after.parameters[name], before.parameters[name])
                for moment, arrays in after.moments.items():
                    np.testing.assert_array_equal(arrays[name], before.moments[moment][name])
            else:  # without the scale, to the last bit: it is a power of two
                np.testing.assert_array_equal(after.gradients[name], gradients[name])
    assert expected.loss_scale == LossScale(2.0**14, 1, 3)


def test_the_twins_have_the_same_methods():
    names = [
        [name for name in vars(module.LossScaler) if not name.startswith("_")]
        for module in (loss_scale_torch, loss_scale_tf)
    ]
    assert names[1] == [{"unscale": "unscaled"}.get(name, name) for name in names[0]]


@pytest.mark.parametrize("precision", ["float64", "float32", "tf32", "bf16"])
@pytest.mark.parametrize("framework", [Torch, TensorFlow])
def test_no_other_precision_scales_its_losses(framework, precision):
    ours = framework(load_recipe("verify-gpt", (*SMALL, f"precision={precision}")))
    loss = object()
    assert ours.optimizer.scaled(loss) is loss
    assert ours.state(0).loss_scale is None


def test_ddps_factor_is_part_of_the_scale():
    """DDP's losses are multiplied by the workers, and its gradients are means."""
    scaler = loss_scale_torch.LossScaler(torch.device("cpu"), loss_factor=4)
    scaler.restore(LossScale(2.0**10))
    assert scaler.scaled(torch.tensor(4 * 3.0)).item() == 3.0 * 2.0**10
    mean = torch.tensor([2.0**10 * 5.0 / 4])
    scaler.unscale([mean])
    assert mean.item() == 5.0
