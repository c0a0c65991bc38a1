"""launchers.import_weights as its users call it."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from distributed import export_torch
from launchers import import_weights
from recipes.recipe import load_recipe
from training.exporting import read_weights

TINY = Path(__file__).parents[1] / "distributed" / "tiny-gpt.toml"
RECIPE = load_recipe(str(TINY))


@pytest.fixture(scope="module")
def gpt2():
    """Hugging Face's, of the recipe's size, with weights at random that all matter."""
    spec = RECIPE.model
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=spec.num_layers, n_head=spec.num_heads, n_embd=spec.width, n_positions=spec.context,
        vocab_size=spec.vocabulary, bos_token_id=0, eos_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.rand_like(parameter) / 5)
    return model


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_an_imported_gpt2_has_the_logits_that_hugging_face_computes(launch, tmp_path, gpt2, name):
    if name.endswith(".bin"):
        torch.save(gpt2.state_dict(), tmp_path / name)
    else:
        gpt2.save_pretrained(tmp_path)
    run_dir = tmp_path / "runs" / "tuned"
    arguments = ["--from", "huggingface", tmp_path / name, "--recipe", TINY, "--out", run_dir]
    ended = launch(import_weights, *arguments)
    assert ended.code == 0, ended.errors
    assert ended.output == [f"{run_dir}: 16 parameters at step 0; train with --resume --run-dir {run_dir}"]
    assert [path.name for path in run_dir.parent.iterdir()] == ["tuned"]
    values, step = read_weights(run_dir, RECIPE)
    assert step == 0
    tokens = np.random.default_rng(0).integers(0, 256, (3, 16))
    with torch.no_grad():
        expected = gpt2(torch.from_numpy(tokens)).logits.numpy()
    found = export_torch.answers(export_torch.build(RECIPE.model, values))(tokens)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    again = launch(import_weights, *arguments)
    assert (again.code, len(again.errors)) == (2, 1)
    assert f"--out {run_dir}: exists already" in again.errors[0]


class Bomb:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_a_pickle_bomb_is_refused_in_one_line_and_not_executed(launch, tmp_path, suffix):
    file = tmp_path / f"weights{suffix}"
    torch.save({"transformer.wte.weight": Bomb(tmp_path / "executed")}, file)
    ended = launch(import_weights, "--from", "huggingface", file, "--recipe", TINY, "--out", tmp_path / "run")
    assert (ended.code, len(ended.errors)) == (2, 1)
    assert f"trimaran: {file}: cannot be " in ended.errors[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--from": "torchvision"}, "--from: found torchvision, whose names are for a resnet, but"),
        ({"--set": "model.vocabulary=200"}, "found transformer.wte.weight of [256, 8], expected [200, 8]"),
        ({"--set": "model.num_layers=2"}, "found no tensor transformer.h.1.ln_1.weight, expected one of [8]"),
        ({"file": "nowhere.bin"}, "found no such file"),
        ({"file": __file__}, "found a name that ends in '.py'"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(launch, tmp_path, gpt2, changed, message):
    gpt2.save_pretrained(tmp_path / "hf")
    options = {"--from": "huggingface", "--recipe": TINY, "--out": tmp_path / "run"} | changed
    file = options.pop("file", tmp_path / "hf" / "model.safetensors")
    ended = launch(import_weights, file, *(word for pair in options.items() for word in pair))
    assert (ended.code, len(ended.errors)) == (2, 1)
    assert message in ended.errors[0]
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_python_without_torch_still_reads_safetensors(launch, tmp_path, gpt2, monkeypatch):
    monkeypatch.setenv("TRIMARAN_TORCH_PYTHON", f"{sys.executable} -I -S")
    gpt2.save_pretrained(tmp_path / "hf")
    torch.save(gpt2.state_dict(), tmp_path / "hf" / "model.bin")
    arguments = ["--from", "huggingface", "--recipe", TINY, "--out", tmp_path / "run"]
    refused = launch(import_weights, tmp_path / "hf" / "model.bin", *arguments)
    assert (refused.code, len(refused.errors)) == (2, 1)
    assert "torch: not installed for" in refused.errors[0]
    assert launch(import_weights, tmp_path / "hf" / "model.safetensors", *arguments).code == 0
