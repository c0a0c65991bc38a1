from types import SimpleNamespace

import numpy as np
import pytest

from distributed.optimizer_tf import read_canonical, write_canonical
from distributed.toolbox_tf import export_state
from models.layout_tf import named_buffers, named_variables
from models.resnet_tf import ResNet
from models.specs import GptSpec, ModelSpec, ResNetSpec, buffer_table, parameter_table
from models.transformer_tf import GPT
from training.state import State
from training.world import World

RESNET = ResNetSpec(depth=10, num_classes=5, image_size=8, width=4)
TRANSFORMER = GptSpec(num_layers=1, num_heads=2, width=8, context=4, vocabulary=16)


@pytest.mark.parametrize("spec", [RESNET, TRANSFORMER], ids=["resnet", "gpt"])
def test_copies_are_numbers_of_their_own_and_their_memory_is_used_again(spec: ModelSpec) -> None:
    model = (ResNet if isinstance(spec, ResNetSpec) else GPT)(spec, "float64")
    variables = {**named_variables(model), **named_buffers(model)}
    generator = np.random.default_rng(1)
    tables = (*parameter_table(spec), *buffer_table(spec))
    values = {tensor.name: generator.standard_normal(tensor.shape) for tensor in tables}
    write_canonical(variables, values, spec)
    copies = read_canonical(variables, spec, {})
    write_canonical(variables, {name: array + 1 for name, array in values.items()}, spec)  # the next step
    for name, array in values.items():
        np.testing.assert_array_equal(copies[name], array)
    again = read_canonical(variables, spec, copies)
    for name, array in values.items():
        assert np.shares_memory(again[name], copies[name])
        np.testing.assert_array_equal(again[name], array + 1)


def test_only_the_main_process_copies() -> None:
    """The others would need the memory and the time for nothing, and the loop takes a state for one to write."""
    other = SimpleNamespace(world=World(1, 1, 2, 2, (1,), "torchrun"))
    assert export_state(None, None, other, 1, State(0, {}, {})) is None
