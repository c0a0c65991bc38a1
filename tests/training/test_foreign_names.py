"""Names and shapes of torchvision's and Hugging Face's files, and what is told of a file that is another's."""

import re
from dataclasses import replace

import numpy as np
import pytest

from models.specs import GPT_SIZES, GptSpec, ResNetSpec, buffer_table, parameter_table
from training.foreign_names import check_family, foreign_table, to_canonical, to_foreign
from training.problems import UsageError

GPT = GptSpec(num_layers=2, num_heads=2, width=4, context=6, vocabulary=7)
RESNET = ResNetSpec(14, num_classes=5, image_size=16, width=2)


def random_values(spec):
    rng = np.random.default_rng(0)
    table = (*parameter_table(spec), *buffer_table(spec))
    return {tensor.name: rng.standard_normal(tensor.shape).astype(np.float32) for tensor in table}


def file_of(spec, origin):
    """What a file of that origin holds: weights, and what is none beside them."""
    arrays = to_foreign(random_values(spec), spec, origin)
    if origin == "huggingface":
        masks = {f"transformer.h.{n}.attn.bias": np.ones((1, 1, 6, 6), np.bool_) for n in range(2)}
        return arrays | masks | {"transformer.h.1.attn.masked_bias": np.float32(-1e4).reshape(())}
    norms = [name.removesuffix("running_mean") for name in arrays if name.endswith("running_mean")]
    return arrays | {f"{norm}num_batches_tracked": np.array(9, np.int64) for norm in norms}


@pytest.mark.parametrize(("depth", "entries"), [(18, 122), (34, 218), (50, 320), (101, 626), (152, 932)])
def test_a_resnet_has_as_many_entries_as_torchvisions_files_have(depth, entries):
    names = [each.name for each in foreign_table(ResNetSpec(depth, 1000, 224), "torchvision")]
    counts = sum(name.endswith("running_mean") for name in names)  # one num_batches_tracked a norm
    assert len(names) + counts == entries


def test_shapes_are_those_of_published_files():
    resnet = {each.name: each.shape for each in foreign_table(ResNetSpec(50, 1000, 224), "torchvision")}
    assert resnet["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert resnet["layer4.2.conv2.weight"] == (512, 512, 3, 3)
    assert resnet["fc.weight"] == (1000, 2048)
    gpt = {each.name: each.shape for each in foreign_table(GPT_SIZES["124m"], "huggingface")}
    assert gpt["transformer.wte.weight"] == (50257, 768)
    assert gpt["transformer.h.11.attn.c_attn.weight"] == (768, 2304)
    assert gpt["transformer.h.11.mlp.c_proj.weight"] == (3072, 768)
    assert len(gpt) == 148


@pytest.mark.parametrize(("spec", "origin"), [(RESNET, "torchvision"), (GPT, "huggingface")])
def test_there_and_back_nothing_changes(spec, origin):
    values = random_values(spec)
    back = to_canonical(file_of(spec, origin), spec, origin, "file")
    assert list(back) == list(values)
    for name, array in values.items():
        np.testing.assert_array_equal(back[name], array)


def test_files_of_the_model_without_its_head_have_no_prefix():
    arrays = {name.removeprefix("transformer."): a for name, a in file_of(GPT, "huggingface").items()}
    with_head = to_canonical(arrays, GPT, "huggingface", "file")
    del arrays["lm_head.weight"]
    without = to_canonical(arrays, GPT, "huggingface", "file")
    for name, array in random_values(GPT).items():
        np.testing.assert_array_equal(without[name], array)
        np.testing.assert_array_equal(with_head[name], array)


def spoilt(spec, origin, name, array):
    arrays = file_of(spec, origin)
    arrays[name] = array
    return {name: array for name, array in arrays.items() if array is not None}


@pytest.mark.parametrize(
    ("spec", "origin", "name", "array", "message"),
    [
        (RESNET, "torchvision", "layer2.0.bn3.running_var", None, "found no tensor layer2.0.bn3.running_var, "
         "expected one of [16]"),
        (RESNET, "torchvision", "fc.weight", np.ones((9, 64), "f4"), "found fc.weight of [9, 64], expected [5, 64]"),
        (RESNET, "torchvision", "conv1.bias", np.ones(2, "f4"), "found a tensor conv1.bias of [2], which the"),
        (RESNET, "torchvision", "fc.bias", np.full(5, np.nan, "f4"), "found in fc.bias values of float32 that are no"),
        (RESNET, "torchvision", "fc.bias", np.ones(5, "i8"), "found in fc.bias values of int64 that are no"),
        (GPT, "huggingface", "transformer.h.1.mlp.c_fc.weight", np.ones((16, 4), "f4"),
         "found transformer.h.1.mlp.c_fc.weight of [16, 4], expected [4, 16]"),
        (GPT, "huggingface", "transformer.h.2.ln_1.bias", np.ones(4, "f4"),
         "found a tensor transformer.h.2.ln_1.bias of [4], which"),
        (GPT, "huggingface", "transformer.ln_f.bias", None, "found no tensor transformer.ln_f.bias, expected"),
        (GPT, "huggingface", "lm_head.weight", np.ones((7, 4), "f4"), "found in lm_head.weight other numbers than"),
    ],
)  # fmt: skip
def test_a_tensor_that_does_not_fit_is_named_in_one_line(spec, origin, name, array, message):
    with pytest.raises(UsageError, match=re.escape(f"weights.bin: {message}")) as caught:
        to_canonical(spoilt(spec, origin, name, array), spec, origin, "weights.bin")
    assert "\n" not in str(caught.value)


def test_an_origin_without_such_models_is_refused():
    check_family(GPT, "huggingface", "--from")
    check_family(RESNET, "torchvision", "--from")
    with pytest.raises(UsageError, match="--names: found huggingface, whose names are for a gpt, but"):
        check_family(RESNET, "huggingface", "--names")
    with pytest.raises(
        UsageError, match="--from: found torchvision, whose ResNets have ReLUs, but the recipe has"
    ):
        check_family(replace(RESNET, activation="gelu"), "torchvision", "--from")
