"""PyTorch's state dicts and ONNX files compute what the checkpoint's model computes."""

import sys

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from distributed import export_torch
from models.resnet_torch import ResNet
from models.transformer_torch import GPT
from tests.distributed.exports import make_run
from training.exporting import trial_inputs
from training.feed import PIXEL_MEAN, PIXEL_STD


@pytest.fixture
def export(tmp_path, monkeypatch):
    """Export a tiny run; returns the exit code, the recipe, the canonical state and what was written."""

    def call(family, *arguments):
        recipe, state = make_run(tmp_path / "run", family)
        out = tmp_path / "out"
        monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "run"), "--out", str(out), *arguments])
        return export_torch.main(), recipe, state, out

    return call


def canonical_logits(recipe, state, batch):
    """By the training scripts' formula, in float64: pixels are normalised, the state is not rounded."""
    spec = recipe.model
    model = (GPT(spec) if spec.family == "gpt" else ResNet(spec)).double().eval()
    tensors = {name: torch.from_numpy(array) for name, array in {**state.parameters, **state.buffers}.items()}
    model.load_state_dict(tensors)
    inputs = torch.from_numpy(batch)
    if spec.family == "resnet":
        inputs = ((inputs.double() - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)).permute(0, 3, 1, 2)
    with torch.no_grad():
        return model(inputs).numpy()


@pytest.mark.parametrize(("family", "names"), [("gpt", "canonical"), ("resnet", "torchvision")])
def test_a_state_dict_loads_into_a_new_module(export, family, names):
    code, recipe, state, out = export(family, "--to", "torch", "--names", names)
    assert code == 0
    model = (GPT if family == "gpt" else ResNet)(recipe.model)
    tensors = torch.load(out, weights_only=True)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    model.load_state_dict(tensors)
    served = export_torch.answers(export_torch.Served(model.eval(), family == "resnet"))
    for batch in trial_inputs(recipe.model):
        expected = canonical_logits(recipe, state, batch)
        np.testing.assert_allclose(served(batch), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_hugging_faces_gpt2_takes_a_state_dict_under_its_names(export):
    code, recipe, state, out = export("gpt", "--to", "torch", "--names", "huggingface")
    assert code == 0
    spec = recipe.model
    config = GPT2Config(
        n_layer=spec.num_layers, n_head=spec.num_heads, n_embd=spec.width, n_positions=spec.context,
        vocab_size=spec.vocabulary, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    tensors = torch.load(out, weights_only=True)
    assert tensors["lm_head.weight"].data_ptr() == tensors["transformer.wte.weight"].data_ptr()
    model.load_state_dict(tensors)
    for batch in trial_inputs(spec):
        expected = canonical_logits(recipe, state, batch)
        with torch.no_grad():
            found = model(torch.from_numpy(batch).long()).logits.numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("family", ["gpt", "resnet"])
@pytest.mark.parametrize("large", [False, True])
def test_onnx_takes_any_number_of_raw_inputs(export, monkeypatch, family, large):
    """Needs the packages of the extra `export`."""
    if large:
        monkeypatch.setattr(export_torch, "LARGE_BYTES", 0)
    code, recipe, state, out = export(family, "--to", "onnx")
    assert code == 0
    assert out.with_name("out.data").exists() == large
    logits = export_torch.load_onnx(out)
    for batch in trial_inputs(recipe.model):
        expected = canonical_logits(recipe, state, batch)
        np.testing.assert_allclose(logits(batch), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_file_that_computes_something_else_is_not_kept(export, monkeypatch, capsys):
    write = export_torch.write_state_dict

    def write_worse(values, *others):
        write(values | {"ln_f.bias": values["ln_f.bias"] + np.float32(1e-4)}, *others)

    monkeypatch.setattr(export_torch, "write_state_dict", write_worse)
    code, *_, out = export("gpt", "--to", "torch")
    assert (code, out.exists()) == (1, False)
    assert "not written, because what was loaded again is not the model" in capsys.readouterr().err
