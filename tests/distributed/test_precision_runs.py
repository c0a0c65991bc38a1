"""Real runs in half precision, two workers each: bf16 in both frameworks, and fp16 that overflows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recipes.recipe import load_recipe
from telemetry.run_log import read_rows
from training import checkpoint
from training.importing import write_run
from training.loss_scale import LossScale
from training.state import State, initial_state

pytestmark = pytest.mark.timeout(300)
GPT = str(Path(__file__).parent / "tiny-gpt.toml")
START = {
    "torch-ddp": ("launchers.train", "torch-ddp"),
    "tf-mirrored": ("launchers.train", "tf-mirrored"),
    "torch-horovod": ("launchers.train", "torch-horovod"),
    "tf-horovod": ("launchers.train", "tf-horovod"),
}


def training_rows(run_dir: Path) -> list[dict]:
    return [row for row in read_rows(run_dir / "metrics.jsonl") if "loss" in row]


def final_state(run_dir: Path) -> State:
    return checkpoint.load(run_dir / "checkpoints" / "step-00000006")[0]


@pytest.mark.runs("torch-ddp bf16", "tf-mirrored bf16")
def test_bf16_is_the_same_training_in_both_with_parameters_in_float32(done) -> None:
    settings = []
    for run in done:
        assert run.code == 0, run.errors
        content = json.loads((run.run_dir / "run.json").read_text())
        assert content["precision"] == "bf16"
        settings.append(content["segments"][0]["settings"])
        state = final_state(run.run_dir)
        for arrays in (state.parameters, *state.moments.values()):
            assert {array.dtype for array in arrays.values()} == {np.dtype("float32")}
    assert (settings[0]["autocast"], settings[1]["policy"]) == ("bfloat16", "mixed_bfloat16")
    ours, theirs = (training_rows(run.run_dir) for run in done)
    for row, other in zip(ours, theirs, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=2e-3)
        assert row["loss"] != other["loss"]  # the kernels round each their own way
        assert "loss_scale" not in row
    digests = [json.loads((run.run_dir / "run.json").read_text())["digests"] for run in done]
    assert digests[0] == digests[1]


def overflowing_run(strategy: str, run_dir: Path) -> list[dict]:
    """Started from a loss scale far too large; returns its rows."""
    recipe = load_recipe(GPT, ("precision=fp16",))
    state = initial_state(recipe)
    state.loss_scale = LossScale(2.0**22)
    write_run(state, recipe, run_dir, origin="torchvision", file=Path(GPT))
    done = subprocess.run(
        [sys.executable, "-m", *START[strategy], "--workers", "2", "--resume", "--run-dir", str(run_dir)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return training_rows(run_dir)


@pytest.fixture(scope="module")
def of_torch_ddp(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("overflow") / "torch-ddp"
    overflowing_run("torch-ddp", run_dir)
    return run_dir


@pytest.mark.parametrize(
    "strategy",
    ["tf-mirrored", *(pytest.param(f"{f}-horovod", marks=pytest.mark.horovod) for f in ("torch", "tf"))],
)
def test_all_ranks_skip_what_overflows_and_halve_the_scale(strategy: str, of_torch_ddp, tmp_path) -> None:
    rows, expected = overflowing_run(strategy, tmp_path / "run"), training_rows(of_torch_ddp)
    start = LossScale(2.0**22)
    for row, other in zip(rows, expected, strict=True):
        start = start.after(row["grad_norm"] is not None)
        assert (row["loss_scale"], row["skipped_steps"]) == (start.scale, start.skipped_steps)
        assert row["skipped_steps"] == other["skipped_steps"]
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)
    assert 2 <= start.skipped_steps <= 5  # and the rest are updates
    ours, theirs = final_state(tmp_path / "run"), final_state(of_torch_ddp)
    assert ours.loss_scale == theirs.loss_scale == start
    assert ours.updates == 6 - start.skipped_steps
    for name, array in theirs.parameters.items():
        np.testing.assert_allclose(ours.parameters[name], array, rtol=0, atol=2e-3, err_msg=name)
