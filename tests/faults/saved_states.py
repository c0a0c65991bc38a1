"""What a run saved, and how to tell it from anything else."""

from dataclasses import replace

import numpy as np

from recipes.recipe import Recipe, load_recipe
from training.state import Arrays, State, initial_state

TINY = (
    "model.depth=10",
    "model.width=1",
    "model.image_size=8",
    "precision=float32",
    "optimizer.name=adamw",
    "data.source=synthetic",
)
RECIPE = load_recipe("digits-resnet18", TINY)


def state_at(step: int, recipe: Recipe = RECIPE) -> State:
    state = initial_state(recipe)
    random = np.random.default_rng(step)
    for arrays in (state.parameters, state.buffers, *state.moments.values()):
        arrays.update(
            {name: random.random(array.shape).astype(array.dtype) for name, array in arrays.items()}
        )
    return replace(state, step=step)


SAVED = {step: state_at(step) for step in (4, 8)}


def is_equal(first: Arrays, second: Arrays) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and np.array_equal(first[name], second[name])
        for name in first
    )


def is_saved(state: State) -> bool:
    saved = SAVED.get(state.step)
    return (
        saved is not None
        and is_equal(saved.parameters, state.parameters)
        and is_equal(saved.buffers, state.buffers)
        and saved.moments.keys() == state.moments.keys()
        and all(is_equal(saved.moments[name], state.moments[name]) for name in saved.moments)
    )


def fits(state: State) -> bool:
    """Whether a strategy can restore it: every tensor of the recipe's model, in its shape and type, and no other."""
    wanted = initial_state(RECIPE)

    def shapes(arrays: Arrays) -> dict:
        return {name: (array.shape, array.dtype) for name, array in arrays.items()}

    return (
        shapes(state.parameters) == shapes(wanted.parameters)
        and shapes(state.buffers) == shapes(wanted.buffers)
        and state.moments.keys() == wanted.moments.keys()
        and all(shapes(state.moments[name]) == shapes(wanted.moments[name]) for name in wanted.moments)
    )
