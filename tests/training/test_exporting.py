"""What is exported is the checkpoint that was meant, and nothing is published that computes anything else."""

import re

import numpy as np
import pytest

from models.specs import GptSpec
from tests.distributed.exports import make_run
from training.exporting import (
    BOUNDS,
    ExportOptions,
    check_options,
    largest_difference,
    read_weights,
    trial_inputs,
    write_checked,
)
from training.problems import UsageError


@pytest.fixture
def run_dir(tmp_path):
    make_run(tmp_path / "run", "gpt", steps=(2, 4))
    return tmp_path / "run"


def test_the_newest_whole_checkpoint_or_the_one_named_is_read(run_dir, capsys):
    recipe, newest = make_run(run_dir, "gpt", steps=(4,))
    values, step = read_weights(run_dir, recipe)
    assert step == 4
    assert values["wte.weight"].dtype == np.float32
    np.testing.assert_array_equal(values["wte.weight"], newest.parameters["wte.weight"].astype(np.float32))
    older = run_dir / "checkpoints" / "step-00000002"
    assert not older.exists()  # kept as many as there are steps
    make_run(run_dir, "gpt", steps=(2, 4))
    assert check_options(ExportOptions(older, "torch", run_dir / "x.pt")) == recipe
    assert read_weights(older, recipe)[1] == 2
    (run_dir / "checkpoints" / "step-00000004" / "model.safetensors").write_bytes(b"damaged")
    assert read_weights(run_dir, recipe)[1] == 2
    assert "step-00000004/model.safetensors: its SHA-256 is not the manifest's" in capsys.readouterr().err
    with pytest.raises(UsageError, match="its SHA-256 is not the manifest's; the file is damaged; choose"):
        read_weights(run_dir / "checkpoints" / "step-00000004", recipe)
    other, _ = make_run(run_dir.with_name("other"), "gpt", "seed=9")
    with pytest.raises(UsageError, match=f"found recipe id {recipe.recipe_id}, expected {other.recipe_id}"):
        read_weights(older, other)
    with pytest.raises(UsageError, match="found no whole checkpoint, expected one to export"):
        read_weights(run_dir.parent, recipe)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"checkpoint": "nowhere"}, "found no run ("),
        ({"out": "run/run.json"}, "run/run.json exists already; choose another name"),
        ({"out": "taken.onnx", "to": "onnx"}, "taken.onnx.data exists already"),
        ({"out": "run/run.json/model"}, "run/run.json is not a directory"),
        ({"out": "x" * 300}, "too long; choose another name"),
        ({"to": "keras"}, "Keras reads what ends in .keras; name it so"),
        ({"to": "onnx", "names": "huggingface"}, "--names huggingface: is for --to torch, found --to onnx"),
        ({"names": "torchvision"}, "--names: found torchvision, whose names are for a resnet, but"),
    ],
)
def test_a_mistake_is_one_line(run_dir, changed, message):
    (run_dir.parent / "taken.onnx.data").write_text("")
    options = {"checkpoint": "run", "to": "torch", "out": "model", "names": "canonical"} | changed
    for key in ("checkpoint", "out"):
        options[key] = run_dir.parent / options[key]
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        check_options(ExportOptions(**options))
    assert "\n" not in str(caught.value)


SPEC = GptSpec(num_layers=1, num_heads=1, width=2, context=9, vocabulary=11)


@pytest.mark.parametrize(
    ("error", "code"), [(0.5 * BOUNDS["onnx"], 0), (2 * BOUNDS["onnx"], 1), (np.nan, 1), (np.inf, 1)]
)
def test_only_what_computes_the_same_gets_its_name(tmp_path, capsys, error, code):
    options = ExportOptions(tmp_path, "onnx", tmp_path / "new" / "model.onnx")
    asked = []

    def write(path):
        path.write_text("numbers")
        path.with_name("model.onnx.data").write_text("more")

    def load(path):
        def answer(batch):
            asked.append(batch.shape)
            logits = np.full((*batch.shape, 11), 4.0)
            logits[-1, -1, 3] *= 1 - error * (len(asked) == 2)  # the last logit of the last batch alone
            return logits

        assert path.read_text() == "numbers"
        return answer

    model = lambda batch: np.full((*batch.shape, 11), 4.0)  # noqa: E731 (as short as what it stands for)
    assert write_checked(options, SPEC, 7, model=model, write=write, load=load) == code
    assert asked == [(1, 9), (3, 7)]
    written = ["model.onnx", "model.onnx.data"] if code == 0 else []
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == written
    shown = capsys.readouterr()
    assert ("allowed 1e-05" in shown.out, "is not the model" in shown.err) == (code == 0, code == 1)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("a bug")])
def test_a_failure_leaves_nothing(tmp_path, capsys, error):
    def write(path):
        path.write_text("half")
        raise error

    def export():
        options = ExportOptions(tmp_path, "torch", tmp_path / "model.pt")
        return write_checked(options, SPEC, 7, model=np.sin, write=write, load=lambda path: np.sin)

    if isinstance(error, OSError):
        assert export() == 1
        assert "model.pt: not written: No space left on device; free" in capsys.readouterr().err
    else:
        with pytest.raises(RuntimeError):
            export()
    assert list(tmp_path.iterdir()) == []


def test_differences_are_shares_of_the_largest_logit():
    expected = np.array([[-8.0, 1.0]])
    assert largest_difference(expected, expected + np.array([0, 0.5])) == 0.5 / 8
    assert largest_difference(expected, expected[0]) == np.inf
    assert largest_difference(expected * np.nan, expected) == np.inf


def test_trial_inputs_reach_every_position_and_are_of_the_types_that_are_fed():
    tokens = trial_inputs(SPEC)
    assert [(batch.dtype, batch.shape) for batch in tokens] == [(np.int32, (1, 9)), (np.int32, (3, 7))]
    assert max(batch.max() for batch in tokens) == 10
    np.testing.assert_array_equal(tokens[0], trial_inputs(SPEC)[0])
