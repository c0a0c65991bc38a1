"""What bf16 and fp16 compute in: for each kind of operation the same type in both frameworks (docs/matching.md)."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
from torch.utils._python_dispatch import TorchDispatchMode

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
from models.initial import initial_values
from models.layers_tf import causal_bias
from models.specs import GptSpec, ResNetSpec, parameter_table

SPECS = {
    "gpt": GptSpec(num_layers=2, num_heads=2, width=16, context=12, vocabulary=31),
    "resnet": ResNetSpec(10, num_classes=7, image_size=32, width=4),
    "resnet-gelu": ResNetSpec(10, num_classes=7, image_size=32, width=4, activation="gelu"),
}
HALVES = ("bfloat16", "float16")
WIDE, HALF = {"float32"}, {"half"}
EXPECTED = {
    "gpt": {
        "product": HALF,
        "attention's product": HALF,
        "norm": WIDE,
        "softmax": WIDE,
        "loss": WIDE,
        "embedding": WIDE,
    },
    "resnet": {
        "product": HALF,
        "convolution": HALF,
        "norm": HALF,
        "norm's parameters": WIDE,
        "pool": HALF,
        "activation": HALF,
        "loss": WIDE,
    },
}
"""The type of what each kind of operation is given. LayerNorm's input is the residual stream; BatchNorm's kernels take
half precision with float32 parameters, and normalise in float32."""
TORCH = {
    "mm": "product",
    "addmm": "product",
    "convolution": "convolution",
    "convolution_backward": "convolution",
    "_scaled_dot_product_flash_attention_for_cpu": "attention's product",
    "native_layer_norm": "norm",
    "native_layer_norm_backward": "norm",
    "native_batch_norm": "norm",
    "native_batch_norm_backward": "norm",
    "_log_softmax": "loss",
    "nll_loss_forward": "loss",
    "embedding": "embedding",
    "embedding_dense_backward": "embedding",
    "max_pool2d_with_indices": "pool",
    "relu_": "activation",
}
TENSORFLOW = {
    "MatMul": "product",
    "Conv2D": "convolution",
    "Conv2DBackpropFilter": "convolution",
    "Conv2DBackpropInput": "convolution",
    "BatchMatMulV2": "attention's product",
    "Rsqrt": "norm",
    "RsqrtGrad": "norm",
    "FusedBatchNormV3": "norm",
    "FusedBatchNormGradV3": "norm",
    "Softmax": "softmax",
    "SparseSoftmaxCrossEntropyWithLogits": "loss",
    "GatherV2": "embedding",
    "UnsortedSegmentSum": "embedding",
    "MaxPool": "pool",
    "Relu": "activation",
}


class Recorder(TorchDispatchMode):
    """The types of the tensors that each of PyTorch's kernels is given, autocast's casts done."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, list[str]]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = [a.dtype for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()]
        self.seen.append((function.overloadpacket.__name__, [str(d).removeprefix("torch.") for d in given]))
        return function(*args, **(kwargs or {}))


def kinds(seen: list[tuple[str, list[str]]], names: dict[str, str], half: str) -> dict[str, set[str]]:
    """By kind, what was the type of the first operand, and in a norm that of the others too."""
    found: dict[str, set[str]] = {}
    for name, given in seen:
        if name not in names:
            continue
        told = ["half" if dtype == half else dtype for dtype in given]
        found.setdefault(names[name], set()).add(told[0])
        if "batch_norm" in name or "BatchNorm" in name:
            gradients = 1 if "backward" in name or "Grad" in name else 0
            found.setdefault("norm's parameters", set()).update(told[1 + gradients :])
        elif name not in ("native_layer_norm", "native_layer_norm_backward"):
            assert len(set(told)) == 1, (name, told)
    return found


def sample(family: str) -> tuple[np.ndarray, np.ndarray]:
    rng, spec = np.random.default_rng(0), SPECS[family]
    if isinstance(spec, GptSpec):
        tokens = rng.integers(0, spec.vocabulary, (6, spec.context + 1)).astype(np.int32)
        return tokens[:, :-1], tokens[:, 1:].copy()
    images = rng.standard_normal((8, spec.image_size, spec.image_size, 3), np.float32)
    return images, rng.integers(0, 7, 8).astype(np.int32)


def pytorch(family: str, half: str | None, dtype: torch.dtype = torch.float32) -> Any:
    """(loss, gradients by name, what was recorded)."""
    spec = SPECS[family]
    model = (transformer_torch.GPT if family == "gpt" else resnet_torch.ResNet)(spec).to(dtype)
    parameters = layout_torch.named_parameters(model)
    values = initial_values(spec, seed=0)
    with torch.no_grad():
        for name, tensor in parameters.items():
            tensor.copy_(torch.from_numpy(values[name]))
    if half:
        model.forward = torch.autocast("cpu", getattr(torch, half))(model.forward)
    inputs, targets = map(torch.from_numpy, sample(family))
    if family != "gpt":
        inputs = inputs.permute(0, 3, 1, 2).contiguous().to(dtype)
    with Recorder() as recorder:
        loss = losses_torch.cross_entropy_sum(model(inputs), targets, 0.0)
        loss.backward()
    assert {p.grad.dtype for p in parameters.values()} == {dtype}
    return loss.item(), {name: p.grad.numpy() for name, p in parameters.items()}, recorder.seen


def tensorflow(family: str, policy: str) -> Any:
    """The same."""
    spec = SPECS[family]
    model = (transformer_tf.GPT if family == "gpt" else resnet_tf.ResNet)(spec, policy)
    variables = layout_tf.named_variables(model)
    assert {v.dtype for v in variables.values()} == {tf.float32}
    layouts = {tensor.name: tensor.kind for tensor in parameter_table(spec)}
    values = initial_values(spec, seed=0)
    for name, variable in variables.items():
        variable.assign(layout_tf.to_framework(values[name], layouts[name]))

    @tf.function(autograph=False)
    def run(inputs, targets):
        with tf.GradientTape() as tape:
            loss = losses_tf.cross_entropy_sum(model(inputs, training=True), targets, 0.0)
        return loss, tape.gradient(loss, list(variables.values()))

    inputs, targets = map(tf.constant, sample(family))
    loss, gradients = run(inputs, targets)
    assert {g.dtype for g in gradients} == {tf.float32}
    operations = run.get_concrete_function(inputs, targets).graph.get_operations()
    seen = [(op.type, [x.dtype.name for x in op.inputs if x.dtype.is_floating]) for op in operations]
    arrays = {
        name: layout_tf.to_canonical(g.numpy(), layouts[name])
        for name, g in zip(variables, gradients, strict=True)
    }
    return float(loss), arrays, seen


def largest_difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Relative to the model's largest gradient element, as verify has it."""
    largest = max(np.abs(array).max() for array in theirs.values())
    return max(float(np.abs(ours[name] - array).max()) for name, array in theirs.items()) / largest


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("family", EXPECTED)
def test_each_kind_of_operation_has_the_same_type_in_both(family, half):
    expected = EXPECTED[family]
    _, _, seen = pytorch(family, half)
    # PyTorch's attention has its softmax within one kernel, which computes it in float32.
    assert kinds(seen, TORCH, half) == {kind: v for kind, v in expected.items() if kind != "softmax"}
    _, _, seen = tensorflow(family, f"mixed_{half}")
    assert kinds(seen, TENSORFLOW, half) == expected


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(("family", "most", "of_loss"), [("gpt", 3e-2, 1e-3), ("resnet-gelu", 2e-1, 2**-8)])
def test_losses_and_gradients_are_as_near_as_their_rounding(family, most, of_loss, half):
    """Of models without a ReLU: one that rounding sends the other way moves gradients by more."""
    exact_loss, exact, _ = pytorch(family, None, torch.float64)
    loss, ours, _ = pytorch(family, half)
    other_loss, theirs, _ = tensorflow(family, f"mixed_{half}")
    control = largest_difference(ours, exact)
    assert 1e-5 < control < most
    assert largest_difference(theirs, ours) < 3 * control  # 1.3 in bf16 on the CPU of November 2026
    assert abs(other_loss / exact_loss - 1) < of_loss
    assert abs(loss / exact_loss - 1) < of_loss


@pytest.mark.parametrize("family", SPECS)
def test_float32_has_no_casts(family):
    _, _, seen = pytorch(family, None)
    assert not [given for name, given in seen if name == "_to_copy" and given]  # targets become int64
    _, _, seen = tensorflow(family, "float32")
    assert {dtype for name, given in seen for dtype in given if name == "Cast"} <= {"bool"}


@pytest.mark.parametrize("half", HALVES)
def test_the_residual_stream_keeps_digits_that_half_precision_has_not(half):
    spec = SPECS["gpt"]
    stream = np.full(
        (1, spec.context, spec.width), 3000.0, np.float32
    )  # between numbers of float16 lie 2 there
    ours = transformer_torch.Block(spec, flash_attention=True)
    theirs = transformer_tf.Block(spec, dtype=f"mixed_{half}")
    theirs.mlp.c_proj.bias.assign(np.full(spec.width, 0.125))
    torch.nn.init.zeros_(ours.attn.c_proj.weight), torch.nn.init.zeros_(ours.attn.c_proj.bias)
    torch.nn.init.zeros_(ours.mlp.c_proj.weight), torch.nn.init.constant_(ours.mlp.c_proj.bias, 0.125)
    with torch.autocast("cpu", getattr(torch, half)):
        out = ours(torch.from_numpy(stream))
    np.testing.assert_array_equal(out.detach().numpy(), stream + 0.125)
    out = theirs(tf.constant(stream), causal_bias(spec.context, tf.float32))
    np.testing.assert_array_equal(out.numpy(), stream + 0.125)
