"""Two starts on one run directory, and a run directory that is removed under a run."""

import shutil
import time

import pytest

from tests.faults.runs import THEIR_OWN, WORKERS, assert_same, case, command, long_run

pytestmark = pytest.mark.timeout(300)
STEPS = 200


@pytest.mark.parametrize("strategy", [case(name, quick=name == "torch-single") for name in WORKERS])
def test_a_run_that_goes_on_is_not_resumed_beside_itself(strategy: str, start, undisturbed) -> None:
    words = long_run(strategy, STEPS)
    run = start("run", *words)
    run.wait_for_step(7)
    second = start("run", *command(strategy, "--resume"), screen="second")
    assert second.code() == 2, second.errors
    (line,) = second.told
    assert str(run.run_dir) in line
    assert run.code(120) == 0, run.errors
    assert_same(run, undisturbed(*words))


@pytest.mark.parametrize("strategy", [case(name, quick=name == "torch-single") for name in WORKERS])
def test_of_two_starts_at_once_one_trains(strategy: str, start, undisturbed) -> None:
    words = long_run(strategy, STEPS)
    both = [start("run", *words, screen=screen) for screen in ("first", "second")]
    codes = sorted(run.code(120) for run in both)
    assert codes[0] == 0, [run.errors for run in both]
    assert codes[1] in (1, 2)
    (loser,) = [run for run in both if run.launcher.returncode]
    assert loser.told
    assert "Traceback" not in THEIR_OWN.sub("", loser.errors)
    assert_same(both[0], undisturbed(*words))


@pytest.mark.parametrize("strategy", [case(name, quick=name == "torch-ddp") for name in WORKERS])
def test_a_run_directory_that_is_removed_ends_the_run_in_one_line(strategy: str, start) -> None:
    run = start("run", *long_run(strategy))
    run.wait_for_step(7)
    removed = time.monotonic()
    while run.run_dir.exists() and time.monotonic() < removed + 5:
        shutil.rmtree(run.run_dir, ignore_errors=True)
    line = run.assert_fails()
    assert "No such file or directory" in run.errors
    assert line.startswith(f"trimaran: {strategy} failed: ")
