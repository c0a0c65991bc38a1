"""Each trap of docs/matching.md is sprung once, by a change of the code, and verify's comparison sees it."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from launchers import comparison
from launchers.comparison import Comparison
from telemetry.run_log import read_rows
from training import checkpoint
from training.state import Arrays

HERE = Path(__file__).parent
CONTENT = tomllib.loads((HERE / "traps.toml").read_text())
TRAPS = CONTENT["traps"]
STRATEGIES = ("tf-single", "tf-mirrored", "torch-ddp", "torch-horovod", "tf-horovod")
CLEAN = [f"clean-{strategy}-{recipe}" for strategy in STRATEGIES for recipe in ("gpt", "resnet")]
CLEAN += [f"clean-{variant}" for variant in CONTENT["variants"]]
COMPARED = {"loss": "loss", "gradient": "gradient", "gradient norm": "gradient", "update": "update"}
EVALUATION_BOUND = 1e-9
"""Relative, as for the losses of runs that go freely."""

pytestmark = pytest.mark.timeout(400)


def cases(names: list[str], strategies: list[str]) -> list:
    """One a run; those under Horovod need it."""
    needs = [[pytest.mark.horovod] if strategy.endswith("-horovod") else [] for strategy in strategies]
    return [pytest.param(name, marks=marks) for name, marks in zip(names, needs, strict=True)]


@pytest.mark.parametrize("name", cases(list(TRAPS), [trap["strategy"] for trap in TRAPS.values()]))
def test_a_sprung_trap_is_seen(runs, name):
    run, trap = runs[name], TRAPS[name]
    if "error" in trap:
        assert trap["error"] in (run.error or "")
    assert seen(runs, name) == set(trap["seen"])


@pytest.mark.parametrize("name", cases(CLEAN, [name.split("-", 1)[1].rpartition("-")[0] for name in CLEAN]))
def test_nothing_is_seen_where_no_trap_is_sprung(runs, name):
    assert runs[name].error is None
    assert compare(runs, name).failures() == []
    assert seen(runs, name) == set()


def test_keras_json(runs):
    """Every TensorFlow run of this folder had a keras.json that would change everything, were it heeded."""
    assert seen(runs, "clean-tf-single-gpt") == seen(runs, "clean-tf-single-resnet") == set()
    heeded = {"floatx": "float16", "epsilon": 1e-3, "image_data_format": "channels_first"}
    assert runs.keras_settings == {"backend": "tensorflow", **heeded}


def compare(runs: Any, name: str) -> Comparison:
    """All that verify compares between a run and its reference, in both modes."""
    run, result = runs[name], Comparison()
    theirs, ours = (json.loads((folder / "run.json").read_text()) for folder in (run.reference, run.folder))
    comparison.compare_fingerprints(theirs, ours, result)
    comparison.compare_one_step(run.recipe, run.reference, run.folder, result)
    comparison.compare_trajectory(run.recipe, run.reference, run.folder, result)
    return result


def seen(runs: Any, name: str) -> set[str]:
    """The kinds of difference of a run that went over their bounds, in the words of traps.toml."""
    run = runs[name]
    if run.error is not None:
        return {"error"}
    result = compare(runs, name)
    found = {kind for key, kind in COMPARED.items() if not result.worst[key].passes}
    found |= {"mismatch"} if result.mismatches else set()
    for kind, part in (("statistics", "replay"), ("final statistics", "checkpoints")):
        folders = (run.folder / part, run.peer / part)
        ours, theirs = (Comparison(buffers=statistics(run.recipe.steps, folder)) for folder in folders)
        comparison.compare_statistics(run.recipe, theirs, ours)
        expected = part == "checkpoints" and found  # a run that goes freely soon differs in everything
        found |= set() if ours.passes or expected else {kind}
    found |= {"evaluation"} if evaluations_differ(run.folder, run.peer) else set()
    settings = json.loads((run.folder / "run.json").read_text())["segments"][0]["settings"]
    return found | ({"settings"} if settings["tf32"] is not False else set())


def statistics(steps: int, folder: Path) -> dict[int, Arrays]:
    """BatchNorm's running statistics after each step of a replay, or after the last one of a run."""
    paths = ((step, folder / f"step-{step:08d}") for step in range(1, steps + 1))
    whole = folder.name == "replay"
    return {step: checkpoint.load(path)[0].buffers for step, path in paths if whole or step == steps}


def evaluations_differ(ours: Path, theirs: Path) -> bool:
    """Whether held-out loss or accuracy differ; False where our run did not evaluate."""
    rows = ([row for row in read_rows(run / "metrics.jsonl") if "eval_loss" in row] for run in (ours, theirs))
    return any(
        abs(mine["eval_loss"] - other["eval_loss"]) > EVALUATION_BOUND * other["eval_loss"]
        or (mine["eval_count"], mine["eval_accuracy"]) != (other["eval_count"], other["eval_accuracy"])
        for mine, other in zip(*rows, strict=False)
    )
