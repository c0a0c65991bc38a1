"""Real runs in which one worker alone computes a NaN: no rank applies it, nothing of it is saved or started again.

Of all strategies: tests/faults/test_nonfinite.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.order import SampleOrder
from recipes.recipe import from_dict
from tests.planting import planted
from training import checkpoint
from training.run import open_recipe_source

pytestmark = pytest.mark.timeout(300)
TINY = str(Path(__file__).parent / "tiny-resnet.toml")
OPTIONS = ("--recipe", TINY, "--set", "steps=9", "run.checkpoint_every=2", "run.log_every=100")
PLANT = """
def plant(toolbox):
    whole, calls = toolbox.loss_sum, []
    def poisoned(*arguments):
        calls.append(1)
        return whole(*arguments) * (float("nan") if RANK == "1" and len(calls) == 5 else 1.0)
    toolbox.loss_sum = poisoned
PLANTS = {"distributed.toolbox_torch": plant}
"""
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
FP16 = ("--compression", "fp16")


@pytest.mark.parametrize(
    ("strategy", "more"),
    [
        ("torch-ddp", ()),
        pytest.param("torch-horovod", FP16, marks=pytest.mark.horovod),
    ],
)
def test_a_nan_on_rank_1_ends_the_run_at_its_step(tmp_path: Path, strategy: str, more: tuple) -> None:
    run_dir = tmp_path / "run"
    restarts = ("--max-restarts", "2")  # which are none for what would come again
    command = ("launchers.train", strategy, "--workers", "2", *OPTIONS, *more, *restarts)
    ended = subprocess.run(
        [sys.executable, "-m", *command, "--run-dir", str(run_dir)],
        env={**ENVIRONMENT, **planted(tmp_path, PLANT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    (*_, line) = ended.stderr.splitlines()
    assert line.startswith(f"trimaran: {strategy} failed: rank "), ended.stderr
    assert "step 5: the loss or its gradient is not finite" in line
    assert "step 4 is the last checkpoint" in line
    assert checkpoint.complete_steps(run_dir / "checkpoints") == [2, 4]
    state, _ = checkpoint.load(run_dir / "checkpoints" / "step-00000004")
    assert all(np.isfinite(array).all() for array in (*state.parameters.values(), *state.buffers.values()))
    status = json.loads((run_dir / "status.json").read_text())
    assert (status["state"], status["step"], status["would_repeat"]) == ("failed", 6, True)
    assert len(json.loads((run_dir / "run.json").read_text())["segments"]) == 1
    recipe = from_dict(json.loads((run_dir / "run.json").read_text())["recipe"])
    num_samples = open_recipe_source(recipe, "train").num_samples
    ids = SampleOrder(num_samples, recipe.data.global_batch, recipe.seed).ids(4)[0]
    note = next(run_dir.glob("failure-*.txt")).read_text()
    assert f"The samples of step 5, by their ids: {', '.join(map(str, ids))}" in note
