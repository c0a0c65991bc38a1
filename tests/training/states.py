"""Small states for tests of checkpoints."""

from pathlib import Path

import numpy as np

from training.checkpoint import save
from training.state import State

RECIPE_ID = "0123456789abcdef"
EXTRA = {"tokens": 4096, "strategy": "torch-single", "workers": 1}


def make_state(step: int, moments: tuple[str, ...] = ("exp_avg", "exp_avg_sq"), dtype=np.float64) -> State:
    rng = np.random.default_rng(step)

    def arrays() -> dict[str, np.ndarray]:
        return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}

    shapes = {"conv1.weight": (2, 3, 3, 3), "h.0.mlp.c_fc.bias": (4,), "fc.weight": (2, 4)}
    buffers = {f"bn1.running_{name}": rng.standard_normal(3).astype(dtype) for name in ("mean", "var")}
    return State(step, arrays(), buffers, {moment: arrays() for moment in moments})


def put(folder: Path, step: int, keep: int = 9, recipe_id: str = RECIPE_ID, **kind) -> Path:
    return save(folder, make_state(step, **kind), recipe_id=recipe_id, extra=EXTRA, keep=keep)
