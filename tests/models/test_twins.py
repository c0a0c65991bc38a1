"""The twins correspond line by line, and compute the same logits, loss, gradients and statistics."""

import ast
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import torch

from models import (
    layout_tf,
    layout_torch,
    losses_tf,
    losses_torch,
    resnet_tf,
    resnet_torch,
    transformer_tf,
    transformer_torch,
)
from models import specs as model_specs
from models.initial import initial_values
from models.specs import GptSpec, ResNetSpec, buffer_table, parameter_table

MODELS = Path(model_specs.__file__).parent
TWINS = ["resnet", "transformer", "losses"]
OWN = {"dtype", "built", "flash_attention"}
SPECS = {
    "resnet-basic": ResNetSpec(
        10, num_classes=7, image_size=45, width=4
    ),  # odd at every stage but the last two
    "resnet-bottleneck": ResNetSpec(14, num_classes=7, image_size=64, width=4),
    "resnet-gelu": ResNetSpec(14, num_classes=7, image_size=64, width=4, activation="gelu"),
    "gpt": GptSpec(num_layers=2, num_heads=2, width=16, context=12, vocabulary=31),
}


@pytest.mark.parametrize(
    ("name", "label_smoothing", "jit_compile"),
    [
        ("resnet-basic", 0.0, False),
        ("resnet-bottleneck", 0.1, False),
        ("resnet-bottleneck", 0.1, True),
        ("resnet-gelu", 0.0, False),
        ("gpt", 0.0, False),
        ("gpt", 0.1, False),
        ("gpt", 0.0, True),
    ],
)
def test_everything_that_training_computes_is_equal_in_float64(name, label_smoothing, jit_compile):
    spec = SPECS[name]
    inputs, targets = sample(spec)
    values = perturbed(initial_values(spec, seed=0, dtype=np.float64))
    ours = pytorch_results(spec, values, inputs, targets, label_smoothing)
    theirs = tensorflow_results(spec, values, inputs, targets, label_smoothing, jit_compile)
    assert list(ours["gradients"]) == list(theirs["gradients"])
    np.testing.assert_allclose(theirs["logits"], ours["logits"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(theirs["loss"], ours["loss"], rtol=1e-13)
    assert theirs["correct"] == ours["correct"]
    scale = max(np.abs(gradient).max() for gradient in ours["gradients"].values())
    for key, gradient in ours["gradients"].items():
        np.testing.assert_allclose(
            theirs["gradients"][key], gradient, rtol=0, atol=1e-12 * scale, err_msg=key
        )
    for key, statistic in ours["buffers"].items():
        np.testing.assert_allclose(theirs["buffers"][key], statistic, rtol=1e-12, atol=1e-14, err_msg=key)
    np.testing.assert_allclose(theirs["evaluated"], ours["evaluated"], rtol=0, atol=1e-11)


def sample(spec):
    """Inputs (images NHWC) and targets, some of them not to be counted."""
    rng = np.random.default_rng(0)
    if isinstance(spec, GptSpec):
        tokens = rng.integers(0, spec.vocabulary, (3, spec.context + 1)).astype(np.int32)
        targets = tokens[:, 1:].copy()
        targets[0, 5:] = -1
        return tokens[:, :-1], targets
    images = rng.standard_normal((4, spec.image_size, spec.image_size, 3))
    return images, np.array([3, -1, 0, 6], np.int32)


def perturbed(values):
    """Norms and statistics away from 1 and 0, so that every tensor matters."""
    rng = np.random.default_rng(1)
    return {name: v + rng.uniform(0, 0.2, v.shape) if v.ndim == 1 else v for name, v in values.items()}


def pytorch_results(spec, values, inputs, targets, label_smoothing):
    is_gpt = isinstance(spec, GptSpec)
    model = (transformer_torch.GPT if is_gpt else resnet_torch.ResNet)(spec).double()
    parameters, buffers = layout_torch.named_parameters(model), layout_torch.named_buffers(model)
    with torch.no_grad():
        for name, tensor in (parameters | buffers).items():
            tensor.copy_(torch.from_numpy(values[name]))
    x = torch.from_numpy(inputs if is_gpt else inputs.transpose(0, 3, 1, 2).copy())
    y = torch.from_numpy(targets)
    logits = model(x)
    loss = losses_torch.cross_entropy_sum(logits, y, label_smoothing)
    loss.backward()
    return {
        "logits": logits.detach().numpy(),
        "loss": loss.detach().numpy(),
        "correct": int(losses_torch.correct_count(logits, y)),
        "gradients": {name: tensor.grad.numpy() for name, tensor in parameters.items()},
        "buffers": {name: tensor.numpy() for name, tensor in buffers.items()},
        "evaluated": model.eval()(x).detach().numpy(),
    }


def tensorflow_results(spec, values, inputs, targets, label_smoothing, jit_compile):
    model = (transformer_tf.GPT if isinstance(spec, GptSpec) else resnet_tf.ResNet)(spec, "float64")
    parameters, buffers = layout_tf.named_variables(model), layout_tf.named_buffers(model)
    kinds = {tensor.name: tensor.kind for tensor in parameter_table(spec) + buffer_table(spec)}
    for name, variable in (parameters | buffers).items():
        variable.assign(layout_tf.to_framework(values[name], kinds[name]))

    @tf.function(jit_compile=jit_compile)
    def run(x, y):
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = losses_tf.cross_entropy_sum(logits, y, label_smoothing)
        gradients = tape.gradient(loss, list(parameters.values()))
        return logits, loss, losses_tf.correct_count(logits, y), gradients

    logits, loss, correct, gradients = run(tf.constant(inputs), tf.constant(targets))
    assert all(isinstance(gradient, tf.Tensor) for gradient in gradients)  # dense, not tf.IndexedSlices
    return {
        "logits": logits.numpy(),
        "loss": loss.numpy(),
        "correct": int(correct),
        "gradients": {
            name: layout_tf.to_canonical(gradient.numpy(), kinds[name])
            for name, gradient in zip(parameters, gradients, strict=True)
        },
        "buffers": {name: variable.numpy() for name, variable in buffers.items()},
        "evaluated": model(tf.constant(inputs), training=False).numpy(),
    }


@pytest.mark.parametrize("twin", TWINS)
def test_definitions_attributes_and_docstrings_correspond(twin):
    ours, theirs = (ast.parse((MODELS / f"{twin}_{f}.py").read_text()) for f in ("torch", "tf"))
    assert [d.name for d in definitions(ours)] == [d.name for d in definitions(theirs)]
    assert constants(ours) == constants(theirs)
    assert docstring(ours).splitlines()[2:] == docstring(theirs).splitlines()[2:]
    for mine, other in zip(definitions(ours), definitions(theirs), strict=True):
        assert docstring(mine) == docstring(other)
        assert arguments(mine) == arguments(other), mine.name
        assert attributes(mine) == attributes(other), mine.name
        assert constants(mine) == constants(other), mine.name


def definitions(tree):
    return [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]


def docstring(node):
    return ast.get_docstring(node) or ""


def arguments(node):
    """Of a function or a constructor; TensorFlow's say the type of their numbers besides, PyTorch's which attention."""
    functions = (
        [node] if isinstance(node, ast.FunctionDef) else [d for d in node.body if is_named(d, "__init__")]
    )
    return [[a.arg for a in f.args.args + f.args.kwonlyargs if a.arg not in OWN] for f in functions]


def attributes(node):
    """Names assigned to self in the constructor, in order; what only one of the frameworks has apart."""
    if isinstance(node, ast.FunctionDef):
        return []
    (constructor,) = (d for d in node.body if is_named(d, "__init__"))
    targets = [target for s in constructor.body if isinstance(s, ast.Assign) for target in s.targets]
    return [t.attr for t in targets if isinstance(t, ast.Attribute) and t.attr not in OWN]


def constants(node):
    """Names and values given in a module's or a class's body."""
    if isinstance(node, ast.FunctionDef):
        return []
    assignments = [statement for statement in node.body if isinstance(statement, ast.Assign)]
    return [ast.unparse(a) for a in assignments if isinstance(a.targets[0], ast.Name)]


def is_named(node, name):
    return isinstance(node, ast.FunctionDef) and node.name == name
