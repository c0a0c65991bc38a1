"""Initial values: reproducible, independent of each other and of the number type, of the right spread."""

import time
from math import sqrt

import numpy as np
import pytest

from models.initial import initial_values
from models.specs import GptSpec, ResNetSpec, buffer_table, parameter_table

RESNET = ResNetSpec(14, num_classes=10, image_size=32, width=16)
GPT = GptSpec(num_layers=3, num_heads=2, width=64, context=32, vocabulary=257)


@pytest.mark.parametrize("spec", [RESNET, GPT])
def test_every_tensor_is_there_in_order_and_shape(spec):
    values = initial_values(spec, seed=0)
    expected = [(tensor.name, tensor.shape) for tensor in parameter_table(spec) + buffer_table(spec)]
    assert [(name, value.shape) for name, value in values.items()] == expected
    assert all(value.dtype == np.float32 for value in values.values())


@pytest.mark.parametrize("spec", [RESNET, GPT])
def test_float64_has_exactly_the_values_of_float32(spec):
    single, double = initial_values(spec, seed=3), initial_values(spec, seed=3, dtype=np.float64)
    for name, value in double.items():
        assert value.dtype == np.float64
        np.testing.assert_array_equal(value, single[name])


def test_a_tensor_depends_on_seed_and_name_only():
    small = initial_values(GptSpec(1, 2, 64, 32, 257), seed=0)
    large = initial_values(GptSpec(2, 2, 64, 32, 257), seed=0)
    other_seed = initial_values(GptSpec(1, 2, 64, 32, 257), seed=1)
    name = "h.0.attn.c_attn.weight"
    np.testing.assert_array_equal(small[name], large[name])
    assert not np.array_equal(small[name], other_seed[name])
    assert not np.array_equal(large[name], large["h.1.attn.c_attn.weight"])
    assert abs(np.corrcoef(large[name].ravel(), large["h.1.attn.c_attn.weight"].ravel())[0, 1]) < 0.04


def test_the_values_are_those_of_every_earlier_version():
    """A change here makes every recorded run unrepeatable."""
    values = initial_values(GPT, seed=1337)
    np.testing.assert_array_equal(
        values["wte.weight"][0, :3], np.float32([-0.019705968, -0.018194985, -0.0053344206])
    )
    values = initial_values(RESNET, seed=1337)
    np.testing.assert_array_equal(values["fc.bias"][:3], np.float32([0.033597935, -0.043157805, 0.037403498]))


def test_resnet_spreads():
    values = initial_values(RESNET, seed=0)
    for tensor in parameter_table(RESNET) + buffer_table(RESNET):
        value = values[tensor.name]
        match tensor.kind:
            case "conv":
                fan_out = value.shape[0] * value.shape[2] * value.shape[3]
                assert_normal(value, sqrt(2 / fan_out))
            case "norm_weight" | "running_var":
                assert (value == 1).all()
            case "norm_bias" | "running_mean":
                assert (value == 0).all()
            case "linear_weight" | "linear_bias":
                bound = 1 / sqrt(8 * 16 * 4)
                assert -bound <= value.min() < -0.7 * bound
                assert 0.7 * bound < value.max() <= bound


def test_gpt_spreads():
    values = initial_values(GPT, seed=0)
    for tensor in parameter_table(GPT):
        value = values[tensor.name]
        match tensor.kind:
            case "embedding" | "dense_weight":
                assert_normal(value, 0.02)
            case "residual_weight":
                assert tensor.name.endswith("c_proj.weight")
                assert_normal(value, 0.02 / sqrt(2 * 3))
            case "norm_weight":
                assert (value == 1).all()
            case "norm_bias" | "dense_bias":
                assert (value == 0).all()


def assert_normal(value, deviation):
    """Mean, deviation and share beyond two deviations, each within five standard errors."""
    error = 5 / sqrt(value.size)
    assert abs(value.mean()) < error * deviation
    assert abs(value.std() / deviation - 1) < error
    assert abs((np.abs(value) > 2 * deviation).mean() - 0.0455) < error * 0.21


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_an_impossible_seed_is_named(seed):
    with pytest.raises(ValueError, match=rf"^seed: found {seed}, expected a whole number from 0 to "):
        initial_values(GPT, seed)


def test_eleven_million_values_cost_little():
    """About 0.2 s of processor time; the bound is far above, to catch only a slow way of drawing."""
    started = time.process_time()
    initial_values(ResNetSpec(18, num_classes=10, image_size=32), seed=0)
    assert time.process_time() - started < 2
