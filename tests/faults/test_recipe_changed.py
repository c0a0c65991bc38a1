"""A recipe that was changed between a save and a resume is refused before anything starts, its keys named."""

import json
import shutil

import pytest

from tests.faults.runs import GPT, TINY, WORKERS, Started, case, command, each_strategy

STOPPED = command("torch-single", *GPT, "--stop-after", "3")
CHANGED = ("--set", "optimizer.learning_rate=5e-4", "model.width=16", "seed=4")
KEYS = "differs from {run_dir}/run.json in seed, model.width, optimizer.learning_rate; leave it out"


@pytest.fixture
def stopped(undisturbed, tmp_path) -> Started:
    """A copy of a run that was stopped at step 3."""
    run = undisturbed(*STOPPED)
    shutil.copytree(run.run_dir, tmp_path / "run")
    return run


def files(run: Started) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(run.run_dir.rglob("*")) if path.is_file()}


def assert_refused(run: Started, line: str) -> None:
    assert run.code() == 2, run.errors
    (told,) = run.told
    assert line in told


@each_strategy(*WORKERS)
def test_another_recipe_is_refused_and_the_differing_keys_named(
    strategy: str, stopped, start, tmp_path
) -> None:
    run = start("run", *command(strategy, "--resume", *GPT, *CHANGED))
    before = files(stopped)
    assert_refused(run, KEYS.format(run_dir=tmp_path / "run"))
    assert {
        path.replace(str(stopped.run_dir), str(run.run_dir)): text for path, text in before.items()
    } == files(run)


RAW = {
    "torch-ddp": (
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--master-addr=127.0.0.1",
        "--master-port=0",
        "-m",
    ),
    "tf-mirrored": (),
}


@pytest.mark.parametrize(
    "strategy", [case("torch-ddp"), case("tf-mirrored"), case("torch-single"), case("tf-single")]
)
def test_the_scripts_themselves_refuse_it(strategy: str, stopped, start, tmp_path) -> None:
    script = f"distributed.{strategy.replace('-', '_')}"
    run = start("run", *RAW.get(strategy, ()), script, "--resume", *GPT, *CHANGED)
    run.launcher.wait(60)
    assert run.launcher.returncode == (1 if strategy == "torch-ddp" else 2), (
        run.errors
    )  # torchrun knows only 1
    (told,) = run.told
    assert KEYS.format(run_dir=tmp_path / "run") in told


def test_the_same_recipe_given_again_goes_on(stopped, start) -> None:
    run = start("run", *command("torch-single", "--resume", *GPT))
    assert run.code() == 0, run.errors


def test_a_recipe_changed_within_run_json_is_refused(stopped, start, tmp_path) -> None:
    path = tmp_path / "run" / "run.json"
    content = json.loads(path.read_text())
    content["recipe"]["optimizer"]["learning_rate"] = 0.5
    path.write_text(json.dumps(content))
    assert_refused(start("run", *command("torch-single", "--resume")), "recipe_id")


def test_what_is_no_part_of_a_recipe_may_change(stopped, start) -> None:
    """How often a run reports is nobody's business but the reader's."""
    run = start("run", *command("torch-single", "--resume", *GPT, "--set", "run.eval_every=-1"))
    assert run.code() == 0, run.errors
    assert TINY.is_dir()
