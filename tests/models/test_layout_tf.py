"""Names and layouts: every variable once, and each transposition undone by its inverse."""

import numpy as np
import pytest

from models.initial import initial_values
from models.layout_tf import named_buffers, named_variables, to_canonical, to_framework
from models.resnet_tf import ResNet
from models.specs import GptSpec, ResNetSpec, buffer_table, parameter_count, parameter_table
from models.transformer_tf import GPT

MODELS = [
    (ResNet, ResNetSpec(10, num_classes=3, image_size=32, width=4)),
    (ResNet, ResNetSpec(14, num_classes=3, image_size=32, width=4)),
    (GPT, GptSpec(num_layers=2, num_heads=2, width=8, context=6, vocabulary=11)),
]


@pytest.mark.parametrize(("make", "spec"), MODELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_variable_has_one_canonical_name_from_construction_on(make, spec, dtype):
    model = make(spec, dtype)
    variables, buffers = named_variables(model), named_buffers(model)
    assert [id(v) for v in variables.values()] == [
        id(v) for v in {id(v): v for v in variables.values()}.values()
    ]
    assert {id(v) for v in variables.values()} == {id(v.value) for v in model.trainable_variables}
    assert {id(v) for v in buffers.values()} == {id(v.value) for v in model.non_trainable_variables}
    assert sum(int(np.prod(v.shape)) for v in variables.values()) == parameter_count(spec)
    for tensor in parameter_table(spec) + buffer_table(spec):
        variable = (variables | buffers)[tensor.name]
        assert to_canonical(variable.numpy(), tensor.kind).shape == tensor.shape
        assert variable.dtype == dtype
        assert variable.aggregation.name == "NONE"


def test_the_names_stand_in_pytorch_order():
    for make, spec in MODELS:
        model = make(spec, "float32")
        assert list(named_variables(model)) == [tensor.name for tensor in parameter_table(spec)]
        assert list(named_buffers(model)) == [tensor.name for tensor in buffer_table(spec)]


@pytest.mark.parametrize(("_make", "spec"), MODELS)
def test_layouts_lead_there_and_back(_make, spec):
    values = initial_values(spec, seed=0)
    for tensor in parameter_table(spec) + buffer_table(spec):
        moved = to_framework(values[tensor.name], tensor.kind)
        assert moved.flags.c_contiguous
        np.testing.assert_array_equal(to_canonical(moved, tensor.kind), values[tensor.name])


def test_transposes_are_the_documented_ones():
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)  # OIHW
    assert to_framework(kernel, "conv")[3, 4, 2, 1] == kernel[1, 2, 3, 4]  # HWIO
    weight = np.arange(6).reshape(2, 3)
    for kind in ("linear_weight", "dense_weight", "residual_weight"):
        np.testing.assert_array_equal(to_framework(weight, kind), weight.T)
    np.testing.assert_array_equal(to_framework(weight, "embedding"), weight)
