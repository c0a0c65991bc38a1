import os
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bare_shared import load
from benchmarks.duel import Effort
from benchmarks.race import bare_entry, our_entry, race_overrides, startable_strategies
from data.synthetic import SyntheticImages, SyntheticTokens
from launchers import commands, prefixes
from training.problems import UsageError

TINY_GPT = Path(__file__).parents[1] / "distributed" / "tiny-gpt.toml"
# Runs a script and prints what became of its weights, in one write: mpirun mixes the ranks' lines otherwise.
WEIGHTS = """
import hashlib, runpy, sys
sys.argv[:] = sys.argv[1:]
names = runpy.run_path(sys.argv[0])
weights = names["model"].parameters() if "torch" in names else names["variables"]
arrays = [(w.detach() if "torch" in names else w).numpy() for w in weights]
print("weights " + hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest() + "\\n", end="")
"""


@pytest.mark.parametrize("strategy", commands.LAUNCHERS)
def test_both_are_started_by_the_same_launcher(strategy: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(prefixes, "free_port", lambda: 20001)
    ours, bare = (
        make(strategy, 2, "digits-resnet18", (), tmp_path / make.__name__) for make in (our_entry, bare_entry)
    )
    launcher = ours.command[: ours.command.index(f"distributed.{strategy.replace('-', '_')}") - 1]
    script = f"bare_{strategy.partition('-')[0]}.py"
    assert bare.command[: len(launcher)] == launcher
    assert Path(bare.command[len(launcher)]).name == script
    assert ("horovod" in bare.command) == strategy.endswith("-horovod")
    assert ours.environment == bare.environment
    assert (
        ours.has_launcher == bare.has_launcher == (strategy in ("torch-ddp", "torch-horovod", "tf-horovod"))
    )


def test_an_unknown_strategy_is_an_error_before_any_race() -> None:
    with pytest.raises(
        UsageError, match=r"^--strategies: found 'tf', expected some of: torch-ddp, tf-mirrored$"
    ):
        startable_strategies("torch-ddp,tf", ("torch-ddp", "tf-mirrored"))
    assert startable_strategies("tf-single,torch-ddp", commands.LAUNCHERS) == ["tf-single", "torch-ddp"]


def test_training_goes_on_past_the_last_window() -> None:
    effort = Effort(windows=3, warmup_windows=2, window_steps=4)
    assert race_overrides(("seed=2",), effort) == (
        "seed=2",
        "steps=21",
        "run.log_every=4",
        "run.eval_every=0",
    )


@pytest.mark.horovod
@pytest.mark.parametrize("strategy", ["torch-horovod", "tf-horovod"])
def test_the_bare_loop_under_horovod_combines_the_gradients(strategy: str, tmp_path: Path) -> None:
    entry = bare_entry(strategy, 2, str(TINY_GPT), ("steps=3",), tmp_path / "bare")
    script = next(index for index, word in enumerate(entry.command) if word.endswith(".py"))
    command = [*entry.command[:script], "-c", WEIGHTS, *entry.command[script:]]
    output = subprocess.run(
        command, env={**os.environ, **entry.environment}, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    weights = [line for line in output if line.startswith("weights ")]
    assert len(weights) == 2
    assert len(set(weights)) == 1  # each rank draws its own batches
    assert sum('{"step": 1,' in line for line in output) == 1  # rank 0 alone reports


@pytest.mark.parametrize("family", ["image_size = 8\nnum_classes = 4", "context = 8\nvocabulary = 16"])
def test_a_synthetic_batch_is_the_one_that_our_scripts_train_on(family: str) -> None:
    model = tomllib.loads(family)
    recipe = {"seed": 5, "model": model, "data": {"source": "synthetic", "global_batch": 6}}
    inputs, targets = load(recipe)
    is_image = "image_size" in model
    expected = (SyntheticImages if is_image else SyntheticTokens)("train", *model.values(), seed=5)
    ids = np.arange(6)
    assert np.array_equal(inputs, expected.batch(ids, 0 * ids)["inputs"])
    assert targets.shape == ((6,) if is_image else (6, 8))
    with pytest.raises(ValueError, match=r"data\.source: found 'images'"):
        load(recipe | {"data": {"source": "images", "global_batch": 6}})
