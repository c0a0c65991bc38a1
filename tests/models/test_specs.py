"""Tables, counts and costs of the models, without any framework."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.specs import (
    GPT_SIZES,
    RESNET_DEPTHS,
    GptSpec,
    ResNetSpec,
    buffer_table,
    forward_flops,
    parameter_count,
    parameter_table,
    training_flops,
)


# torchvision's published counts; 10, 14 and 26 as timm has them (resnet10t and the like differ in the stem).
@pytest.mark.parametrize(
    ("depth", "count"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_resnet_parameter_counts_are_the_published_ones(depth, count):
    assert parameter_count(ResNetSpec(depth, num_classes=1000, image_size=224)) == count


@pytest.mark.parametrize(
    ("size", "count"),
    [("124m", 124_439_808), ("350m", 354_823_168), ("774m", 774_030_080), ("1.5b", 1_557_611_200)],
)
def test_gpt_parameter_counts_are_the_published_ones(size, count):
    assert parameter_count(GPT_SIZES[size]) == count


def test_resnet50_costs_what_is_published():
    spec = ResNetSpec(50, num_classes=1000, image_size=224)
    assert forward_flops(spec) / 2e9 == pytest.approx(4.09, abs=0.005)
    assert training_flops(spec) / 1e9 == pytest.approx(24.5, abs=0.05)


@pytest.mark.parametrize("size", GPT_SIZES)
def test_gpt_costs_what_the_rule_of_thumb_says(size):
    """6 N + 12 L H Q T a token; N without the positions, which are not multiplied with."""
    spec = GPT_SIZES[size]
    num_multiplied = parameter_count(spec) - spec.context * spec.width
    rule = 6 * num_multiplied + 12 * spec.num_layers * spec.width * spec.context
    assert training_flops(spec) / spec.context == pytest.approx(rule, rel=2e-3)


def test_batch_norms_have_two_statistics_each_and_gpts_none():
    spec = ResNetSpec(50, num_classes=10, image_size=64)
    norms = [tensor.name for tensor in parameter_table(spec) if tensor.kind == "norm_weight"]
    assert len(norms) == 53
    expected = [
        name.replace("weight", statistic) for name in norms for statistic in ("running_mean", "running_var")
    ]
    assert [tensor.name for tensor in buffer_table(spec)] == expected
    assert buffer_table(GPT_SIZES["124m"]) == ()


@given(
    st.sampled_from(sorted(RESNET_DEPTHS)),
    st.integers(1, 20),
    st.integers(1, 300),
    st.sampled_from([1, 8, 64]),
)
def test_any_resnet_has_unique_names_and_positive_sizes(depth, num_classes, image_size, width):
    spec = ResNetSpec(depth, num_classes, image_size, width)
    tensors = parameter_table(spec) + buffer_table(spec)
    assert len({tensor.name for tensor in tensors}) == len(tensors)
    assert all(size > 0 for tensor in tensors for size in tensor.shape)
    assert training_flops(spec) == 3 * forward_flops(spec) > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ResNetSpec(19, 10, 32),
            r"^model\.depth: found 19, expected one of 10, 14, 18, 26, 34, 50, 101, 152$",
        ),
        (
            lambda: ResNetSpec(18, 0, 32),
            r"^model\.num_classes: found 0, expected a whole number of at least 1$",
        ),
        (lambda: ResNetSpec(18, 10, -1), r"^model\.image_size: found -1, "),
        (lambda: ResNetSpec(18, 10, 32, 0), r"^model\.width: found 0, "),
        (
            lambda: ResNetSpec(18, 10, 32, activation="silu"),
            r"^model\.activation: found 'silu', expected one of relu, gelu$",
        ),
        (lambda: GptSpec(0, 1, 8, 8, 8), r"^model\.num_layers: found 0, "),
        (lambda: GptSpec(1, 0, 8, 8, 8), r"^model\.num_heads: found 0, "),
        (lambda: GptSpec(1, 1, 8, 0, 8), r"^model\.context: found 0, "),
        (lambda: GptSpec(1, 1, 8, 8, 0), r"^model\.vocabulary: found 0, "),
        (
            lambda: GptSpec(1, 3, 8, 8, 8),
            r"^model\.width: found 8, expected a multiple of model\.num_heads = 3$",
        ),
    ],
)
def test_impossible_sizes_name_the_key(make, message):
    with pytest.raises(ValueError, match=message):
        make()
