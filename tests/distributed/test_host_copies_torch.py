from types import SimpleNamespace

import numpy as np
import torch

from distributed.optimizer_torch import host_copies
from distributed.toolbox_torch import export_state
from training.state import State
from training.world import World


def test_copies_are_numbers_of_their_own_and_their_memory_is_used_again() -> None:
    tensors = {
        "conv": torch.nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)),
        "bias": torch.randn(4, dtype=torch.float64),
        "scalar": torch.tensor(2.0),
    }
    copies = host_copies(tensors, {})
    before = {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}
    assert copies["conv"].strides == tensors["conv"].detach().numpy().strides  # copied as it lies
    with torch.no_grad():
        for tensor in tensors.values():
            tensor += 1  # the next step, while they are written
    for name, array in before.items():
        np.testing.assert_array_equal(copies[name], array)
    again = host_copies(tensors, copies)
    for name, array in before.items():
        assert again[name] is copies[name]
        np.testing.assert_array_equal(again[name], array + 1)


def test_only_the_main_process_copies() -> None:
    """The others would need the memory and the time for nothing, and the loop takes a state for one to write."""
    other = SimpleNamespace(world=World(1, 1, 2, 2, (1,), "torchrun"))
    assert export_state(None, None, other, 1, State(0, {}, {})) is None
