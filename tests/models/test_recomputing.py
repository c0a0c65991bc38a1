"""With activation checkpointing the same is computed, statistics are updated once, and less is kept, in both."""

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
import torch

from models import layout_tf, layout_torch, resnet_tf, resnet_torch, transformer_tf, transformer_torch
from models.initial import initial_values
from models.losses_tf import cross_entropy_sum as loss_tf
from models.losses_torch import cross_entropy_sum as loss_torch
from models.specs import GptSpec, ResNetSpec, buffer_table, parameter_table

SPECS = {
    "resnet-basic": ResNetSpec(10, num_classes=7, image_size=32, width=4),
    "resnet-bottleneck": ResNetSpec(14, num_classes=7, image_size=32, width=4),
    "gpt": GptSpec(num_layers=2, num_heads=2, width=16, context=12, vocabulary=31),
}
PASSES = 2
"""Micro-batches summed: a statistic that were updated too often would also be wrong by more."""


def sample(spec):
    """PASSES micro-batches of inputs (images NHWC, float32) and targets."""
    rng = np.random.default_rng(0)
    if isinstance(spec, GptSpec):
        tokens = rng.integers(0, spec.vocabulary, (PASSES, 3, spec.context + 1)).astype(np.int32)
        return tokens[..., :-1], tokens[..., 1:].copy()
    images = rng.standard_normal((PASSES, 4, spec.image_size, spec.image_size, 3), np.float32)
    return images, rng.integers(0, 7, (PASSES, 4)).astype(np.int32)


def in_torch(spec, again, half=None):
    """(gradients, statistics, bytes kept for the backward passes)."""
    is_gpt = isinstance(spec, GptSpec)
    model = (transformer_torch.GPT if is_gpt else resnet_torch.ResNet)(spec, again)
    parameters, buffers = layout_torch.named_parameters(model), layout_torch.named_buffers(model)
    with torch.no_grad():
        for name, tensor in (parameters | buffers).items():
            tensor.copy_(torch.from_numpy(initial_values(spec, seed=0)[name]))
    if half:
        model.forward = torch.autocast("cpu", half)(model.forward)
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for inputs, targets in zip(*map(torch.from_numpy, sample(spec)), strict=True):
        x = inputs if is_gpt else inputs.permute(0, 3, 1, 2).contiguous()
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = loss_torch(model(x), targets, 0.1)
        loss.backward()
    own = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    gradients = {name: tensor.grad.numpy() for name, tensor in parameters.items()}
    statistics = {name: tensor.numpy() for name, tensor in buffers.items()}
    return gradients, statistics, sum(size for place, size in kept.items() if place not in own)


@pytest.mark.parametrize("half", [None, torch.bfloat16])
@pytest.mark.parametrize("name", SPECS)
def test_pytorch_computes_the_same_to_the_last_bit_and_keeps_less(name, half):
    gradients, statistics, kept = in_torch(SPECS[name], again=True, half=half)
    expected, wanted, all_kept = in_torch(SPECS[name], again=False, half=half)
    for key, gradient in expected.items():
        np.testing.assert_array_equal(gradients[key], gradient, err_msg=key)
    for key, statistic in wanted.items():
        np.testing.assert_array_equal(statistics[key], statistic, err_msg=key)
    assert kept < (0.6 if name == "gpt" else 0.8) * all_kept  # a ResNet has its stem besides


def in_tensorflow(spec, again, jit_compile, policy):
    """(gradients, statistics, the function, its arguments)."""
    model = (transformer_tf.GPT if isinstance(spec, GptSpec) else resnet_tf.ResNet)(spec, policy, again)
    parameters, buffers = layout_tf.named_variables(model), layout_tf.named_buffers(model)
    kinds = {tensor.name: tensor.kind for tensor in parameter_table(spec) + buffer_table(spec)}
    values = initial_values(spec, seed=0)
    for name, variable in (parameters | buffers).items():
        variable.assign(layout_tf.to_framework(values[name], kinds[name]))
    variables = list(parameters.values())

    @tf.function(autograph=False, jit_compile=jit_compile)
    def run(inputs, targets):
        def add(index, sums):
            with tf.GradientTape() as tape:
                loss = loss_tf(model(inputs[index], training=True), targets[index], 0.1)
            return index + 1, [s + g for s, g in zip(sums, tape.gradient(loss, variables), strict=True)]

        zeros = [tf.zeros(v.shape, v.dtype) for v in variables]
        return tf.while_loop(lambda index, _: index < PASSES, add, (0, zeros), parallel_iterations=1)[1]

    inputs, targets = sample(spec)
    arguments = tf.cast(inputs, policy) if policy == "float64" and inputs.ndim > 3 else inputs, targets
    arguments = tuple(map(tf.constant, arguments))
    gradients = {name: g.numpy() for name, g in zip(parameters, run(*arguments), strict=True)}
    return gradients, {name: b.numpy() for name, b in buffers.items()}, run, arguments


@pytest.mark.parametrize(
    ("name", "jit_compile", "policy", "bound"),
    [
        ("resnet-basic", False, "float64", 1e-13),
        ("resnet-bottleneck", False, "mixed_float16", 1e-6),
        ("gpt", False, "float64", 1e-13),
        ("resnet-basic", True, "float64", 1e-13),
        ("gpt", True, "float64", 1e-13),
    ],
)
def test_tensorflow_computes_the_same_and_computes_it_again(name, jit_compile, policy, bound):
    spec = SPECS[name]
    gradients, statistics, run, arguments = in_tensorflow(spec, True, jit_compile, policy)
    expected, wanted, plain, _ = in_tensorflow(spec, False, jit_compile, policy)
    scale = max(np.abs(gradient).max() for gradient in expected.values())
    for key, gradient in expected.items():
        np.testing.assert_allclose(gradients[key], gradient, rtol=0, atol=bound * scale, err_msg=key)
    rounding = 1e-13 if jit_compile else 0  # XLA fuses by what stands around
    for key, statistic in wanted.items():
        np.testing.assert_allclose(statistics[key], statistic, rtol=rounding, atol=rounding, err_msg=key)
    if jit_compile and name != "gpt":  # where XLA makes products of some convolutions
        return
    kind = "tanh" if name == "gpt" else "convolution"
    more = blocks_work(run, arguments, jit_compile, kind) - blocks_work(plain, arguments, jit_compile, kind)
    assert more == (spec.num_layers if isinstance(spec, GptSpec) else spec.depth - 2 + shortcuts(spec))


def shortcuts(spec):
    """Convolutions beside the main path."""
    return sum(t.name.endswith("downsample.0.weight") for t in parameter_table(spec))


def blocks_work(run, arguments, jit_compile, kind):
    """How many operations of a kind stand in the graph, or in what XLA made of it."""
    if jit_compile:
        text = run.experimental_get_compiler_ir(*arguments)(stage="optimized_hlo")
        return text.count(f" {kind}(")
    graph = run.get_concrete_function(*arguments).graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    return Counter(node.op for node in nodes)[{"tanh": "Tanh", "convolution": "Conv2D"}[kind]]
