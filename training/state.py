"""The whole state of a run in canonical form: NumPy arrays under PyTorch's names, in PyTorch's layout."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from models.initial import initial_values
from models.specs import buffer_table, parameter_table
from recipes.recipe import Recipe
from training.loss_scale import LossScale

Arrays = dict[str, np.ndarray]
MOMENTS = {"sgd": ("momentum",), "adamw": ("exp_avg", "exp_avg_sq")}
"""What each optimizer remembers, by torch.optim's names."""


@dataclass
class State:
    """What a step starts from. `moments` maps each moment's name to an array a parameter.

    `gradients` are those of the last step, combined over the workers and not yet clipped; only runs that
    are to be verified record them. `loss_scale` is fp16's alone.
    """

    step: int
    parameters: Arrays
    buffers: Arrays
    moments: dict[str, Arrays] = field(default_factory=dict)
    gradients: Arrays | None = None
    loss_scale: LossScale | None = None

    @property
    def updates(self) -> int:
        """How many updates were made: all steps but those that overflowed in fp16."""
        return self.step - (self.loss_scale.skipped_steps if self.loss_scale else 0)

    @cached_property
    def model_digest(self) -> str:
        """Of parameters and buffers: one pass over a large model, for all who ask about the state of a start."""
        return digest({**self.parameters, **self.buffers})


def parameter_dtype(recipe: Recipe) -> np.dtype:
    """The type of the master weights and moments."""
    return np.dtype("float64" if recipe.precision == "float64" else "float32")


def initial_state(recipe: Recipe) -> State:
    """Step 0: weights from the seed (invariant 3), moments of zero. The same for every strategy."""
    dtype = parameter_dtype(recipe)
    values = initial_values(recipe.model, recipe.seed, dtype)
    parameters = {tensor.name: values[tensor.name] for tensor in parameter_table(recipe.model)}
    buffers = {tensor.name: values[tensor.name] for tensor in buffer_table(recipe.model)}
    moments = {
        moment: {name: np.zeros_like(value) for name, value in parameters.items()}
        for moment in MOMENTS[recipe.optimizer.name]
    }
    return State(0, parameters, buffers, moments, loss_scale=initial_loss_scale(recipe))


def initial_loss_scale(recipe: Recipe) -> LossScale | None:
    """What fp16 starts with; None in other precisions."""
    return LossScale() if recipe.precision == "fp16" else None


def misfit(recipe: Recipe, state: State) -> str | None:
    """What of a state is not as the recipe has it: the first tensor that is missing, left over, or of another form."""
    parameters = {tensor.name: tensor.shape for tensor in parameter_table(recipe.model)}
    buffers = {tensor.name: tensor.shape for tensor in buffer_table(recipe.model)}
    moments = MOMENTS[recipe.optimizer.name]
    kinds = [(state.parameters, parameters, ""), (state.buffers, buffers, "")]
    for moment in sorted({*moments, *state.moments}):
        kinds.append((state.moments.get(moment, {}), parameters if moment in moments else {}, f"{moment}."))
    for arrays, shapes, prefix in kinds:
        for name in sorted(arrays.keys() | shapes.keys()):
            found = f"{arrays[name].dtype} {list(arrays[name].shape)}" if name in arrays else "none"
            expected = f"{parameter_dtype(recipe)} {list(shapes[name])}" if name in shapes else "none"
            if found != expected:
                return f"{prefix + name!r}: found {found}, expected {expected}"
    if (state.loss_scale is None) != (initial_loss_scale(recipe) is None):
        return f"loss scale: found {state.loss_scale}, expected one in fp16 and in fp16 alone"
    return None


def digest(arrays: Arrays) -> str:
    """16 hex digits over names, shapes, types and values, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(f"{name}{arrays[name].shape}{arrays[name].dtype}".encode())
        total.update(np.ascontiguousarray(arrays[name]).data)
    return total.hexdigest()[:16]
