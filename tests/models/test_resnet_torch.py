"""The PyTorch ResNet against its table, PyTorch's operation counter, and Hugging Face's independent one."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import ResNetConfig, ResNetForImageClassification

from models.initial import initial_values
from models.layout_torch import named_buffers, named_parameters
from models.losses_torch import cross_entropy_sum
from models.resnet_torch import ResNet
from models.specs import (
    RESNET_DEPTHS,
    ResNetSpec,
    buffer_table,
    forward_flops,
    parameter_count,
    parameter_table,
)


@pytest.mark.parametrize("depth", RESNET_DEPTHS)
def test_tables_and_cost_are_those_of_the_built_model(depth):
    spec = ResNetSpec(depth, num_classes=17, image_size=97, width=24)  # odd sizes: rounding shows
    with torch.device("meta"):
        model = ResNet(spec)
        images = torch.empty(2, 3, 97, 97)
    built = [(name, tuple(tensor.shape)) for name, tensor in named_parameters(model).items()]
    assert built == [(tensor.name, tensor.shape) for tensor in parameter_table(spec)]
    built = [(name, tuple(tensor.shape)) for name, tensor in named_buffers(model).items()]
    assert built == [(tensor.name, tensor.shape) for tensor in buffer_table(spec)]
    assert sum(tensor.numel() for tensor in model.parameters()) == parameter_count(spec)
    with FlopCounterMode(display=False) as counter:
        model(images)
    assert counter.get_total_flops() == 2 * forward_flops(spec)


@pytest.mark.parametrize(("depth", "layer_type", "width"), [(18, "basic", 16), (50, "bottleneck", 64)])
def test_forward_loss_gradients_and_statistics_equal_those_of_hugging_face(depth, layer_type, width):
    spec = ResNetSpec(depth, num_classes=1000, image_size=64, width=width)
    expansion = 4 if layer_type == "bottleneck" else 1
    config = ResNetConfig(
        embedding_size=width,
        hidden_sizes=[width * 2**stage * expansion for stage in range(4)],
        depths=list(spec.stage_blocks),
        layer_type=layer_type,
        downsample_in_bottleneck=False,
        num_labels=1000,
    )
    oracle = ResNetForImageClassification(config).double().train()
    model = ResNet(spec).double().train()
    theirs = {hugging_face_name(name): name for name in named_parameters(model) | named_buffers(model)}
    load(model, perturbed(initial_values(spec, seed=0, dtype=np.float64)))
    ours = model.state_dict()
    weights = {name: ours[theirs[name]] for name in theirs}
    missing = oracle.load_state_dict(weights, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing)

    rng = np.random.default_rng(0)
    images = torch.tensor(rng.standard_normal((4, 3, 64, 64)))
    targets = torch.tensor(rng.integers(0, 1000, 4))
    logits = model(images)
    loss = cross_entropy_sum(logits, targets, label_smoothing=0.0) / 4
    loss.backward()
    expected = oracle(images, labels=targets)
    expected.loss.backward()

    torch.testing.assert_close(logits, expected.logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(loss, expected.loss, rtol=1e-14, atol=0)
    gradients = dict(oracle.named_parameters())
    scale = max(float(parameter.grad.abs().max()) for parameter in gradients.values())
    for their_name, name in theirs.items():
        if their_name in gradients:
            ours = model.get_parameter(name).grad
            torch.testing.assert_close(ours, gradients[their_name].grad, rtol=0, atol=1e-12 * scale)
        else:
            torch.testing.assert_close(
                model.get_buffer(name), oracle.get_buffer(their_name), rtol=0, atol=1e-13
            )


@pytest.mark.parametrize(
    ("activation", "dtype", "bound"),
    [("relu", torch.float64, 1e-11), ("gelu", torch.float64, 1e-11), ("gelu", torch.float32, 1e-4)],
)
def test_channels_last_changes_rounding_alone(activation, dtype, bound):
    """In float32 only without a ReLU: rounding sends something to its other side (docs/matching.md)."""
    spec = ResNetSpec(14, num_classes=10, image_size=16, width=8, activation=activation)
    images = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=dtype)
    gradients = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model = ResNet(spec).to(dtype)
        load(model, perturbed(initial_values(spec, seed=0, dtype=np.float64)))
        model = model.to(memory_format=memory_format)
        cross_entropy_sum(
            model(images.to(memory_format=memory_format)), torch.arange(24) % 10, 0.1
        ).backward()
        gradients.append({name: parameter.grad for name, parameter in named_parameters(model).items()})
    plain, ours = gradients
    assert any(not torch.equal(ours[name], plain[name]) for name in plain)
    scale = max(float(gradient.abs().max()) for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=bound * scale)


def hugging_face_name(name):
    """layer2.0.conv1.weight -> resnet.encoder.stages.1.layers.0.layer.0.convolution.weight."""
    *path, leaf = name.split(".")
    if path[0] == "fc":
        return f"classifier.1.{leaf}"
    is_conv = path[-1].startswith("conv") or path[-2:] == ["downsample", "0"]
    unit = "convolution" if is_conv else "normalization"
    if len(path) == 1:
        return f"resnet.embedder.embedder.{unit}.{leaf}"
    place = "shortcut" if path[2] == "downsample" else f"layer.{int(path[2][-1]) - 1}"
    return f"resnet.encoder.stages.{int(path[0][-1]) - 1}.layers.{path[1]}.{place}.{unit}.{leaf}"


def perturbed(values):
    """Norms away from 1 and 0, so that every tensor matters."""
    rng = np.random.default_rng(1)
    return {name: v + rng.uniform(0, 0.2, v.shape) if v.ndim == 1 else v for name, v in values.items()}


def load(model, values):
    with torch.no_grad():
        for name, tensor in (named_parameters(model) | named_buffers(model)).items():
            tensor.copy_(torch.from_numpy(values[name]))
