from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from recipes.recipe import OptimizerConfig
from training.loss_scale import LossScale
from training.state import MOMENTS, State
from training.update_rule import clip_factor, global_norm, updated

SHAPES = {"matrix": (3, 4), "kernel": (2, 3, 2, 2), "bias": (5,), "scalar": ()}
CONFIGS = {
    "plain sgd": OptimizerConfig("sgd", 0.1, momentum=0.0),
    "sgd": OptimizerConfig("sgd", 0.1, momentum=0.9, weight_decay=0.05, clip_norm=1.0),
    "sgd, never clipped": OptimizerConfig("sgd", 0.1, weight_decay=0.05, clip_norm=1e6),
    "adamw": OptimizerConfig("adamw", 0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1, clip_norm=0.5),
    "adamw, unclipped": OptimizerConfig("adamw", 0.01, eps=1e-8, weight_decay=0.1),
}
RATES = (1.0, 0.3, 0.7, 0.1, 0.05)
"""Times the recipe's: a rate that changes tells torch's momentum from the kind that has the rate inside."""


def start(config: OptimizerConfig, rng: np.random.Generator) -> State:
    parameters = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    zeros = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    buffers = {"bn.running_mean": np.ones(2)}
    return State(0, parameters, buffers, {moment: dict(zeros) for moment in MOMENTS[config.name]})


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_rule_is_that_of_torch_over_several_steps(config: OptimizerConfig) -> None:
    rng = np.random.default_rng(5)
    state = start(config, rng)
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in state.parameters.items()}
    groups = [
        {"params": [p for p in tensors.values() if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in tensors.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        optimizer = torch.optim.SGD(groups, lr=1.0, momentum=config.momentum)
    else:
        optimizer = torch.optim.AdamW(groups, lr=1.0, betas=config.betas, eps=config.eps)
    for factor in RATES:
        gradients = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(gradients[name])
        if config.clip_norm:
            clip_grad_norm_(list(tensors.values()), config.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        optimizer.step()
        state = updated(state, gradients, config.learning_rate * factor, config)
        for name, tensor in tensors.items():
            np.testing.assert_allclose(state.parameters[name], tensor.detach().numpy(), rtol=0, atol=1e-14)
    assert state.step == len(RATES)
    keys = {"momentum": "momentum_buffer"}
    for moment, arrays in state.moments.items():
        for name, array in arrays.items():
            if config.momentum or moment != "momentum":
                theirs = optimizer.state[tensors[name]][keys.get(moment, moment)]
                np.testing.assert_allclose(array, theirs.numpy(), rtol=0, atol=1e-14)


def test_an_update_leaves_the_state_before_it_and_the_buffers_alone() -> None:
    config = CONFIGS["adamw"]
    before = start(config, np.random.default_rng(1))
    kept = {name: value.copy() for name, value in before.parameters.items()}
    gradients = {name: np.ones(shape) for name, shape in SHAPES.items()}
    after = updated(before, gradients, 0.1, config)
    assert after.buffers is before.buffers
    assert before.step == 0
    for name, value in kept.items():
        np.testing.assert_array_equal(before.parameters[name], value)
        assert (after.parameters[name] != value).all()
        assert not before.moments["exp_avg"][name].any()


def test_without_a_gradient_only_matrices_decay() -> None:
    config = OptimizerConfig("sgd", 1.0, momentum=0.0, weight_decay=0.25)
    before = start(config, np.random.default_rng(2))
    after = updated(before, {name: np.zeros(shape) for name, shape in SHAPES.items()}, 1.0, config)
    for name, value in before.parameters.items():
        np.testing.assert_array_equal(after.parameters[name], value * (0.75 if value.ndim >= 2 else 1.0))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_clipping_brings_the_norm_of_all_gradients_together_to_the_bound(dtype: type) -> None:
    gradients = {"a": np.full((3, 3), 2, dtype), "b": np.full(7, -2, dtype)}
    norm = global_norm(gradients)
    assert norm == 8.0
    assert clip_factor(norm, 2.0) == pytest.approx(0.25, rel=1e-6)
    assert clip_factor(norm, 8.1) == 1.0
    assert clip_factor(norm, 0.0) == 1.0
    assert clip_factor(0.0, 1.0) == 1.0
    # The norm is over the union: each array for itself would have been within the bound.
    assert clip_factor(norm, 7.0) == pytest.approx(7 / 8, rel=1e-6)


def test_a_gradient_that_is_not_finite_changes_the_step_and_the_loss_scale_alone() -> None:
    config = CONFIGS["adamw"]
    before = replace(start(config, np.random.default_rng(1)), step=4, loss_scale=LossScale(8.0, 3, 1))
    gradients = {name: np.ones(shape) for name, shape in SHAPES.items()}
    gradients["bias"][2] = np.inf
    after = updated(before, gradients, 0.1, config)
    assert (after.step, after.updates, after.loss_scale) == (5, 3, LossScale(4.0, 0, 2))
    assert after.parameters is before.parameters
    assert after.moments is before.moments
    # The bias correction counts updates, so the next step makes the fourth.
    gradients["bias"][2] = 1.0
    late = updated(after, gradients, 0.1, config)
    expected = updated(replace(before, step=3, loss_scale=None), gradients, 0.1, config)
    np.testing.assert_array_equal(late.parameters["matrix"], expected.parameters["matrix"])
