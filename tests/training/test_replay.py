from pathlib import Path

import numpy as np
import pytest

from telemetry.run_log import read_rows
from training import checkpoint
from training.problems import UsageError
from training.replay import reference_state
from training.state import initial_state
from training.update_rule import updated


def test_each_step_is_taken_from_the_references_state(train_tiny, tmp_path: Path) -> None:
    steps = ("steps=4", "run.checkpoint_every=1", "run.keep_checkpoints=99")
    _, first = train_tiny(*steps, name="reference")
    states = [initial_state(first.run.recipe)]
    states += [
        checkpoint.load(tmp_path / "reference" / "checkpoints" / f"step-{s:08d}")[0] for s in (1, 2, 3)
    ]
    code, fake = train_tiny(*steps, name="other", replay_from=tmp_path / "reference", stop_after=1)
    assert code == 75
    assert len(fake.calls) == 1 + 4
    rows = read_rows(tmp_path / "other" / "replay" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    reference = read_rows(tmp_path / "reference" / "metrics.jsonl")
    for key in ("loss", "learning_rate", "sample_digest"):
        assert [row[key] for row in rows] == [row[key] for row in reference if "loss" in row]
    for before, row in zip(states, rows, strict=True):
        after, _ = checkpoint.load(tmp_path / "other" / "replay" / f"step-{row['step']:08d}")
        gradients = {name: 0.1 * value + row["loss"] for name, value in before.parameters.items()}
        expected = updated(before, gradients, row["learning_rate"], fake.run.recipe.optimizer)
        for name, value in expected.parameters.items():
            np.testing.assert_allclose(after.parameters[name], value, rtol=0, atol=1e-15)


def test_a_reference_without_every_checkpoint_is_told(train_tiny, open_tiny, tmp_path: Path) -> None:
    train_tiny("steps=4", name="reference")
    run = open_tiny("steps=4", name="other", replay_from=tmp_path / "reference")
    assert reference_state(run, 4).step == 4
    with pytest.raises(UsageError, match=r"^--replay-from .*run\.checkpoint_every=1"):
        reference_state(run, 2)
