"""A NaN in one worker's share of one step: no rank applies the update, and the run can go on from before it."""

import json
import re

import numpy as np
import pytest

from tests.faults.runs import (
    PROCESSES,
    TINY,
    WORKERS,
    assert_same,
    case,
    command,
    exact,
)
from tests.planting import planted

pytestmark = pytest.mark.timeout(300)
BAD_STEP, STEPS, EVERY = 8, 14, 3
RESNET = ("--recipe", str(TINY / "tiny-resnet.toml"))
RUN = (*RESNET, "--set", f"steps={STEPS}", f"run.checkpoint_every={EVERY}", "run.eval_every=-1")
NAN = f"""
def plant_in_feed(feed):
    whole = feed.training_feed
    def marked(run, first_step, num_steps):
        last = run.workers - 1
        for step, batches in enumerate(whole(run, first_step, num_steps), start=first_step + 1):
            if step == {BAD_STEP} and last in run.world.worker_ranks:
                batches[run.world.worker_ranks.index(last)]["inputs"][0, 0] = 255
            yield batches
    feed.training_feed = marked
def plant_in_torch(toolbox):
    whole = toolbox.prepare
    def broken(model, inputs):
        return whole(model, inputs) * (float("nan") if bool((inputs[0] == 255).all()) else 1.0)
    toolbox.prepare = broken
def plant_in_tf(toolbox):
    whole, tf = toolbox.prepare, toolbox.tf
    def broken(model, inputs):
        images = whole(model, inputs)
        is_marked = tf.reduce_all(tf.equal(inputs[0], 255))
        return images * tf.where(is_marked, tf.constant(float("nan"), images.dtype), tf.ones([], images.dtype))
    toolbox.prepare = broken
PLANTS = {{
    "training.feed": plant_in_feed, "distributed.toolbox_torch": plant_in_torch, "distributed.toolbox_tf": plant_in_tf
}}
"""
"""The last worker's first image of a step is all white, and to the model a white image is no number."""


@pytest.mark.parametrize("log_every", [pytest.param(1, marks=pytest.mark.faults_all), 4])
@pytest.mark.parametrize("strategy", [case(name, quick=name == "torch-horovod") for name in WORKERS])
def test_a_nan_on_one_worker_is_applied_by_none(
    strategy: str, log_every: int, start, undisturbed, tmp_path
) -> None:
    words = command(strategy, *RUN, f"run.log_every={log_every}")
    run = start("run", *words, environment=planted(tmp_path, NAN))
    line = run.assert_fails()
    assert f"step {BAD_STEP}: the loss or its gradient is not finite" in line
    assert "that update was not applied; step 6 is the last checkpoint" in line
    assert run.status()["state"] == "failed"
    assert run.saved() == [3, 6]
    samples = re.search(r"over samples ([\d, ]+)", line)
    assert samples is not None
    note = (run.run_dir / "failure-0.txt").read_text()
    assert f"The samples of step {BAD_STEP}, by their ids: {samples[1].rstrip(', ')}" in note
    again = start("run", *command(strategy, "--resume"))
    assert again.code() == 0, again.errors
    assert_same(again, undisturbed(*words))
    assert PROCESSES[strategy] == len(list(run.run_dir.glob("timing-?.jsonl")))


def test_the_update_was_masked_on_the_device(start, undisturbed, tmp_path) -> None:
    """With no save before the report, what is in memory then is the state of before the bad step."""
    words = command("torch-ddp", *RUN, "run.log_every=1")
    run = start("run", *words, environment=planted(tmp_path, NAN))
    run.assert_fails()
    lines = (run.run_dir / "metrics.jsonl").read_text().splitlines()
    bad = json.loads(lines[-1])
    assert (bad["step"], bad["loss"], bad["loss_nonfinite"]) == (BAD_STEP, None, "nan")
    assert exact(run.rows()[:-1]) == exact(undisturbed(*words).rows()[: BAD_STEP - 1])
    assert all(np.isfinite(value).all() for value in run.state(6).parameters.values())
