"""A run to export: a checkpoint of weights that all matter, as training would have left it."""

from pathlib import Path

import numpy as np

from recipes.recipe import Recipe, load_recipe
from telemetry.run_log import write_json
from training import checkpoint
from training.state import State, initial_state

HERE = Path(__file__).parent


def some_state(recipe: Recipe, step: int, seed: int = 1) -> State:
    """Norms, biases and statistics away from 1 and 0, and matrices large enough for non-linearities to bend."""
    state, rng = initial_state(recipe), np.random.default_rng(seed)
    for arrays in (state.parameters, state.buffers):
        for name, array in arrays.items():
            arrays[name] = 3 * array if array.ndim == 2 else array + rng.uniform(0, 0.2, array.shape)
    state.step = step
    return state


def make_run(
    run_dir: Path, family: str, *overrides: str, steps: tuple[int, ...] = (6,)
) -> tuple[Recipe, State]:
    """A run directory of tiny-<family>.toml with checkpoints at these steps; its recipe and its newest state."""
    recipe = load_recipe(str(HERE / f"tiny-{family}.toml"), overrides)
    run_dir.mkdir(parents=True, exist_ok=True)
    for step in steps:
        state = some_state(recipe, step, seed=step)
        checkpoint.save(run_dir / "checkpoints", state, recipe_id=recipe.recipe_id, extra={}, keep=len(steps))
    write_json(run_dir / "run.json", {"recipe": recipe.as_dict()})
    return recipe, state
