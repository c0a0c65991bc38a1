"""Weights from a file are where a run starts: the checkpoint of step 0, under a recipe that nobody has begun."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from recipes.recipe import load_recipe
from training import checkpoint
from training.foreign_names import to_foreign
from training.importing import (
    check_new_directory,
    check_source,
    imported_state,
    read_safetensors,
    write_run,
)
from training.loss_scale import LossScale
from training.options import Options
from training.problems import UsageError
from training.run import open_run
from training.state import initial_state
from training.world import World

TINY = str(Path(__file__).parents[1] / "distributed" / "tiny-resnet.toml")


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, dict]:
    """A torchvision-named file of float32, and its arrays, which are those of another seed."""
    recipe = load_recipe(TINY, ("seed=8", "precision=float32"))
    state = initial_state(recipe)
    arrays = to_foreign({**state.parameters, **state.buffers}, recipe.model, "torchvision")
    save_file(arrays, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors", arrays


def test_resume_starts_at_step_0_from_these_weights_on_any_number_of_workers(weights, tmp_path):
    file, arrays = weights
    recipe = load_recipe(TINY)
    run_dir = tmp_path / "new" / "run"
    state = imported_state(read_safetensors(file), recipe, "torchvision", file)
    write_run(state, recipe, run_dir, origin="torchvision", file=file)
    for workers in (1, 3):
        world = World(0, 0, workers, workers, (0,), "torchrun")
        run = open_run(Options(run_dir=run_dir, resume=True), "torch-ddp", world)
        assert run.start is not None
        assert (run.start.step, run.resumed_tokens, run.segments, run.notes) == (0, 0, [], [])
        assert run.recipe == recipe
        assert list(run.start.moments) == ["momentum"]
        assert run.accumulation == 1
        assert not any(array.any() for array in run.start.moments["momentum"].values())
        found = {**run.start.parameters, **run.start.buffers}
        assert found.keys() == arrays.keys()
        for name, array in found.items():
            assert array.dtype == np.float64
            np.testing.assert_array_equal(array, arrays[name])
    content = json.loads((run_dir / "run.json").read_text())
    _, manifest = checkpoint.load(run_dir / "checkpoints" / "step-00000000")
    assert content["imported"] == manifest["imported"]
    assert content["imported"]["from"] == "torchvision"
    assert len(content["imported"]["sha256"]) == 64


def test_fp16_starts_with_its_loss_scale(weights):
    file, _ = weights
    state = imported_state(
        read_safetensors(file), load_recipe(TINY, ("precision=fp16",)), "torchvision", file
    )
    assert state.loss_scale == LossScale(2.0**16, 0, 0)


def test_half_precisions_become_floats_of_the_same_value(tmp_path):
    values = torch.tensor([[1.5, -3.0], [2.0**-20, 0.0]])
    save_tensors({"a": values.bfloat16(), "b": values[0].half()}, tmp_path / "w.safetensors")
    arrays = read_safetensors(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(arrays["a"], values)
    np.testing.assert_array_equal(arrays["b"], [1.5, -3])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.npz", b"", "found a name that ends in '.npz', expected a file of weights: .safetensors, .pt, .pth, .bin"),
        ("w", b"", "found a name that ends in 'nothing', expected"),
        ("w.pt", None, "found no such file, expected one of weights"),
        ("w.safetensors", b"\x80\x04not it", "cannot be read as safetensors ("),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path, name, content, message):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=re.escape(f"{file}: {message}")) as caught:
        check_source(file)
        read_safetensors(file)
    assert "\n" not in str(caught.value)


def test_a_directory_in_use_is_left_alone(tmp_path):
    check_new_directory(tmp_path / "new")
    (tmp_path / "file").write_text("")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(UsageError, match=f"--out {taken}: exists already"):
            check_new_directory(taken)
    with pytest.raises(UsageError, match="too long; choose another directory"):
        check_new_directory(tmp_path / ("x" * 300))
