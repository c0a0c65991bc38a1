import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import training.run
from models.specs import parameter_count
from recipes.checking import RecipeError
from recipes.recipe import load_recipe
from training.options import Options
from training.problems import UsageError
from training.run import check_batch, check_disk, default_run_dir, open_run
from training.state import initial_state
from training.world import World

TINY = ("steps=10", "precision=float64", "model.depth=10", "model.width=2", "model.image_size=8")
TINY += ("data.global_batch=24", "schedule.warmup_steps=2")
Usage = namedtuple("Usage", "total used free")


def workers(count: int) -> World:
    return World(0, 0, count, count, (0,), "torchrun")


def line_of(caught: pytest.ExceptionInfo) -> str:
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_an_opened_run_knows_its_start_and_has_written_nothing(open_tiny, tmp_path: Path) -> None:
    run = open_tiny()
    assert run.start.step == 0
    expected = initial_state(run.recipe)
    for name, value in expected.parameters.items():
        np.testing.assert_array_equal(run.start.parameters[name], value)
    assert (run.workers, run.accumulation, run.train_source.num_samples) == (1, 1, 1438)
    assert run.checkpoints == tmp_path / "run" / "checkpoints"
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_workers_is_an_assertion(open_tiny) -> None:
    assert open_tiny(world=workers(2)).workers == 2
    assert open_tiny(world=workers(2), workers=2).workers == 2
    with pytest.raises(UsageError, match=r"^--workers: found 3, but torchrun started 2 of torch-single"):
        open_tiny(world=workers(2), workers=3)


@pytest.mark.parametrize("stop_after", [0, -1, 11])
def test_stop_after_is_a_step_of_the_run(open_tiny, stop_after: int) -> None:
    with pytest.raises(UsageError, match=rf"^--stop-after: found {stop_after}, expected a step from 1 to 10"):
        open_tiny(stop_after=stop_after)


@settings(deadline=None)
@given(st.integers(-2, 40), st.integers(-2, 40), st.integers(1, 500))
def test_a_batch_is_shared_in_whole_samples_or_refused(count: int, accumulation: int, batch: int) -> None:
    recipe = load_recipe("digits-resnet18", (f"data.global_batch={batch}",))
    fits = count >= 1 and accumulation >= 1 and batch % (count * accumulation) == 0
    try:
        check_batch(recipe, count, accumulation)
    except UsageError as error:
        assert not fits
        key = "--workers" if count < 1 else "--accumulation" if accumulation < 1 else "data.global_batch"
        assert str(error).startswith(f"{key}: found ")
    else:
        assert fits


def test_a_resumed_run_keeps_its_micro_batches(train_tiny, open_tiny) -> None:
    train_tiny(stop_after=4, accumulation=4, world=workers(3))
    for count, accumulation in ((1, 12), (2, 6), (4, 3), (12, 1)):
        assert open_tiny(resume=True, world=workers(count)).accumulation == accumulation
    with pytest.raises(UsageError, match=r"12 micro-batches .* 5 workers") as caught:
        open_tiny(resume=True, world=workers(5))
    line_of(caught)
    # Said outright it is allowed, as long as the batch of 24 can be shared.
    assert open_tiny(resume=True, world=workers(8), accumulation=3).accumulation == 3
    with pytest.raises(UsageError, match=r"^data.global_batch: found 24, expected a multiple of 15"):
        open_tiny(resume=True, world=workers(5), accumulation=3)


def test_a_resumed_run_takes_its_recipe_from_the_directory(train_tiny, open_tiny, tmp_path: Path) -> None:
    train_tiny("optimizer.learning_rate=0.01", stop_after=4)
    run = open_tiny(resume=True)
    assert run.recipe.optimizer.learning_rate == 0.01
    assert run.start.step == 4
    assert len(run.segments) == 1
    with pytest.raises(UsageError, match=r"^--stop-after: found 4, but .* is at step 4 already"):
        open_tiny(resume=True, stop_after=4)


def test_a_recipe_given_on_resume_must_be_the_runs(train_tiny, tmp_path: Path) -> None:
    train_tiny(stop_after=4)
    run_dir = tmp_path / "run"
    same = Options(recipe="digits-resnet18", set=[(*TINY, "run.log_every=3")], run_dir=run_dir, resume=True)
    assert open_run(same, "tf-single", workers(1)).start.step == 4
    other = replace(same, set=[(*TINY, "seed=2", "optimizer.momentum=0.8")])
    with pytest.raises(UsageError, match=r"^--recipe digits-resnet18: differs .*seed, optimizer.momentum"):
        open_run(other, "tf-single", workers(1))
    with pytest.raises(UsageError, match=r"^--set: "):
        open_run(replace(same, recipe=None), "tf-single", workers(1))
    with pytest.raises(UsageError, match=r"^--resume: needs --run-dir"):
        open_run(replace(same, run_dir=None), "tf-single", workers(1))
    with pytest.raises(UsageError, match=r"^--recipe: missing"):
        open_run(Options(run_dir=tmp_path / "new"), "tf-single", workers(1))


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"recipe": 3}', '{"recipe": {"seed": 1}}'])
def test_a_directory_without_a_run_cannot_be_resumed(open_tiny, tmp_path: Path, content: str | None) -> None:
    (tmp_path / "run").mkdir()
    if content is not None:
        (tmp_path / "run" / "run.json").write_text(content)
    with pytest.raises(UsageError, match=r"^--resume .*/run: no run to go on with") as caught:
        open_tiny(resume=True)
    assert "run.json" in line_of(caught)


def test_an_existing_directory_is_taken_only_if_it_is_empty(open_tiny, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert open_tiny().start.step == 0
    (tmp_path / "run" / "notes").touch()
    with pytest.raises(UsageError, match=r"^--run-dir .*/run: exists already; .*--resume"):
        open_tiny()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"^--run-dir .*/file: exists already"):
        open_tiny(name="file")
    with pytest.raises(UsageError, match=r"^--run-dir .*/file/run: .*/file is not a directory"):
        open_tiny(name="file/run")


def test_what_a_start_left_that_hung_before_it_began_is_no_run(open_tiny, tmp_path: Path) -> None:
    (tmp_path / "run" / ".ranks").mkdir(parents=True)
    for name in ("status.json", "failure-0.txt", "stacks-0.txt", "stacks-1.txt", ".ranks/0.json"):
        (tmp_path / "run" / name).touch()
    assert open_tiny().start.step == 0
    (tmp_path / "run" / "run.json").touch()
    with pytest.raises(UsageError, match=r"^--run-dir .*/run: exists already; .*--resume"):
        open_tiny()


@pytest.mark.parametrize("seconds", [-1.0, 4.9, 1e6, float("nan"), float("inf")])
def test_a_timeout_of_a_hang_is_checked(open_tiny, seconds: float) -> None:
    with pytest.raises(UsageError, match=r"^--hang-timeout-s: found .*, expected 5 to 604800 seconds, or 0"):
        open_tiny(hang_timeout_s=seconds)
    assert open_tiny(hang_timeout_s=5.0).options.hang_timeout_s == 5


def test_a_name_that_no_disk_takes_is_told(open_tiny) -> None:
    with pytest.raises(UsageError, match=r"^--run-dir ") as caught:
        open_tiny(name="x" * 300)
    line_of(caught)


@pytest.mark.parametrize(
    ("overrides", "copies"),
    [
        ((), 2),  # the last one, and another while it is being written
        (("run.checkpoint_every=10", "run.keep_checkpoints=4"), 5),
        (("run.checkpoint_every=100", "run.keep_checkpoints=4"), 3),  # a run of 150 steps saves two
    ],
)
def test_a_disk_must_hold_the_checkpoints_that_are_kept(
    tmp_path: Path, monkeypatch, overrides: tuple[str, ...], copies: int
) -> None:
    recipe = load_recipe("digits-resnet18", ("steps=150", "model.width=64", *overrides))
    needed = copies * 11_181_642 * 4 * 2  # parameters, float32, and momentum beside each
    free = [needed - 1]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(needed, 0, free[0]))
    with pytest.raises(UsageError, match=r"MiB free") as caught:
        check_disk(tmp_path / "a" / "run", recipe)
    assert str(tmp_path) in line_of(caught)
    free[0] = needed
    check_disk(tmp_path / "a" / "run", recipe)


def test_a_full_disk_is_told_on_resume_as_well(train_tiny, open_tiny, monkeypatch) -> None:
    train_tiny(stop_after=4)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100, 100, 0))
    with pytest.raises(UsageError, match=r"^--run-dir .*MiB free") as caught:
        open_tiny(resume=True)
    line_of(caught)
    # The checkpoint that is there needs no more room, only the one that is written beside it.
    needed = parameter_count(load_recipe("digits-resnet18", TINY).model) * 8 * 2
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100, 100, needed))
    assert open_tiny(resume=True).start.step == 4


def test_a_launcher_checks_everything_but_makes_no_weights(tmp_path: Path, monkeypatch) -> None:
    def no_weights(recipe) -> None:
        raise AssertionError("a launcher has no use for weights")

    monkeypatch.setattr(training.run, "initial_state", no_weights)
    options = Options(recipe="digits-resnet18", run_dir=tmp_path / "run")
    assert open_run(options, "torch-ddp", workers(2), with_state=False).start is None
    with pytest.raises(RecipeError):
        open_run(replace(options, set=[("steps=0",)]), "torch-ddp", workers(2), with_state=False)
    with pytest.raises(UsageError):
        open_run(options, "torch-ddp", workers(5), with_state=False)


def test_where_a_run_goes_that_was_not_told() -> None:
    assert default_run_dir("digits-resnet18", "torch-ddp", 2) == Path("runs/digits-resnet18-torch-ddp-2")
    assert default_run_dir("my/own.toml", "tf-single", 1) == Path("runs/own-tf-single-1")
