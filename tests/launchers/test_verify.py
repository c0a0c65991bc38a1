import json
from pathlib import Path

import pytest

from launchers import verify
from launchers.plan import make_plan
from launchers.verify_report import print_report, write_report
from recipes.recipe import load_recipe

BOTH = ("one-step", "trajectory")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--strategies", "torch-dpp"), "--strategies: found 'torch-dpp'"),
        (("--strategies", ""), "--strategies: found ''"),
        (("--workers", "1,two"), "--workers: found '1,two'"),
        (("--workers", "0"), "--workers 0"),
        (("--steps", "0"), "--steps 0"),
        (("--workers", "5", "--recipe", "verify-resnet"), "data.global_batch"),
        (("--recipe", "no-such"), "--recipe no-such"),
        (("--set", "sead=1"), "sead"),
        (("--switch", "steps=3"), "--switch steps=3: expected performance.key=value"),
        (("--switch", "performance.xxl=true"), "performance.xxl"),
        (("--precision", "float32", "--mode", "trajectory"), "--precision float64"),
        (("--precision", "float16"), "float16"),
        (("--mode", "both-of-them"), "both-of-them"),
    ],
)
def test_a_mistake_is_one_line_before_any_run_starts(launch, no_process, arguments, named) -> None:
    ended = launch(verify, *arguments)
    assert (ended.code, ended.output, len(ended.errors)) == (2, [], 1), ended
    assert named in ended.errors[0]


def test_a_working_directory_that_holds_something_is_left_alone(launch, no_process, tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    ended = launch(verify, "--work-dir", tmp_path)
    assert (ended.code, len(ended.errors)) == (2, 1)
    assert f"--work-dir {tmp_path}: is not empty" in ended.errors[0]


@pytest.mark.parametrize("option", ["--report", "--work-dir"])
def test_a_place_that_cannot_be_written_is_told_before_and_not_after_ten_minutes(
    launch, no_process, tmp_path: Path, option: str
) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "below"
    ended = launch(verify, option, place)
    assert (ended.code, ended.output, len(ended.errors)) == (2, [], 1)
    assert f"{option} {place}" in ended.errors[0]


def test_a_reference_that_does_not_run_is_told_with_its_reason(launch, monkeypatch) -> None:
    monkeypatch.setattr(verify, "run_quietly", lambda *_: (1, "rank 0 failed at step 3: why"))
    ended = launch(verify, "--strategies", "tf-single", "--workers", "1", "--recipe", "verify-gpt")
    assert ended.code != 0
    assert "reference did not run (rank 0 failed at step 3: why)" in ended.errors[-1]


def make_finished_plan(loss: float):
    recipe = load_recipe("verify-gpt", ("steps=2",))
    plan = make_plan("verify-gpt", recipe, ["torch-single", "tf-single"], [1], (), BOTH)
    plan.control = 1e-12
    for job in plan.jobs:
        job.result.worst["loss"] = verify.comparison.Worst(1e-12)
        job.result.worst["loss"].see(0.0, "step 1")
    plan.jobs[1].result.worst["loss"].see(loss, "step 2")
    return plan


@pytest.mark.parametrize(
    ("loss", "verdict"), [(5e-13, "the same training"), (1e-11, "NOT the same training")]
)
def test_the_table_shows_the_worst_differences_and_the_verdict(capsys, loss: float, verdict: str) -> None:
    print_report([make_finished_plan(loss)], BOTH, 12.0)
    shown = capsys.readouterr().out
    assert f"{loss:.1e}" in shown
    assert [line for line in shown.splitlines() if line.startswith(f"{verdict}: ")]
    assert ("first over 1e-12 at step 2: 1.00e-11" in shown) == verdict.startswith("NOT")
    assert "calm enough" in shown


def test_the_report_holds_every_number_that_was_compared(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_report(path, [make_finished_plan(1e-11)], verify.VerifyOptions())
    content = json.loads(path.read_text())
    assert content["passed"] is False
    (recipe,) = content["recipes"]
    assert [run["passed"] for run in recipe["runs"]] == [True, False]
    assert recipe["runs"][1]["worst"]["loss"]["differences"] == [["step 1", 0.0], ["step 2", 1e-11]]
    assert recipe["runs"][1]["worst"]["loss"]["bound"] == 1e-12
