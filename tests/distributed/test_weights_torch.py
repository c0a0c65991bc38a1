"""Of a PyTorch file only tensors are ever loaded."""

import os
import pickle
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from distributed import weights_torch
from training.problems import UsageError


class Bomb:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "within"])
def test_a_pickle_bomb_is_not_executed(tmp_path, form):
    trace, file = tmp_path / "executed", tmp_path / "bomb.pt"
    content = {"weight": torch.ones(2), "x": Bomb(trace)} if form == "within" else Bomb(trace)
    if form == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form != "legacy")
    with pytest.raises(UsageError, match=re.escape(f"{file}: cannot be loaded as weights only")) as caught:
        weights_torch.read_tensors(file)
    assert "\n" not in str(caught.value)
    assert not trace.exists()
    torch.load(file, weights_only=False) if form != "pickle" else pickle.loads(file.read_bytes())
    assert trace.exists()  # it was a live one


def test_the_tensors_of_a_state_dict_keep_their_values(tmp_path, monkeypatch):
    shared = torch.arange(6.0).reshape(2, 3)
    tensors = {
        "plain": shared, "tied": shared, "transposed": shared.T, "half": torch.ones(2).half(),
        "brain": torch.tensor([1.5, -3.0]).bfloat16(), "count": torch.tensor(3),
        "parameter": torch.nn.Parameter(torch.ones(1)),
    }  # fmt: skip
    torch.save(tensors, tmp_path / "w.pt")
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "w.pt"), str(tmp_path / "w.safetensors")])
    assert weights_torch.main() == 0
    from training.importing import read_safetensors

    arrays = read_safetensors(tmp_path / "w.safetensors")
    assert arrays.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(arrays[name], tensor.detach().float().numpy())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "found a list, expected a state dict"),
        ({}, "found a dict, expected a state dict"),
        (
            {"model": {"w": torch.ones(2)}},
            "found under 'model' a dict, expected a state dict: tensors by name alone",
        ),
        ({0: torch.ones(2)}, "found under 0 a Tensor, expected"),
        ({"w": torch.ones(2, 2).to_sparse()}, "w: found a tensor that is sparse"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UsageError, match=re.escape(message)):
        weights_torch.read_tensors(tmp_path / "w.pt")


def test_a_damaged_file_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("other", "nothing")
    with pytest.raises(UsageError, match="cannot be loaded as weights only"):
        weights_torch.read_tensors(tmp_path / "w.pt")
