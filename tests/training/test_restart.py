import json
import os
import time
from pathlib import Path

import psutil
import pytest

from telemetry.run_log import write_status
from training import restart
from training.options import Options
from training.problems import EXIT_FAILED, EXIT_STOPPED_EARLY, NotRestarted, UsageError
from training.run import open_run
from training.world import World

TINY = str(Path(__file__).parents[1] / "distributed" / "tiny-resnet.toml")
WORLD = World(0, 0, 2, 2, (0,), "torchrun")
FIRST = {"TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "3"}
AGAIN = {"TORCHELASTIC_RESTART_COUNT": "1", "TORCHELASTIC_MAX_RESTARTS": "3"}
OURS = {restart.RESTART: "2 of 5"}


def started(run_dir: Path, seconds_ago: float = 0.0) -> None:
    """A run that began so long ago, in two processes."""
    run_dir.mkdir(exist_ok=True)
    segment = {"started_unix_s": time.time() - seconds_ago, "workers": 2}
    (run_dir / "run.json").write_text(json.dumps({"segments": [segment]}))


def age_of_our_parent_s() -> float:
    return time.time() - psutil.Process(os.getppid()).create_time()


def test_whose_restart_it_is_and_the_how_manieth() -> None:
    assert restart.number({}) is None
    assert restart.number(FIRST) is None
    assert restart.number(AGAIN) == "1 of 3"
    assert restart.number(OURS) == restart.number(AGAIN | OURS) == "2 of 5"


def test_a_run_is_ours_if_it_began_after_torchrun(tmp_path: Path) -> None:
    assert not restart.is_ours(tmp_path, AGAIN)  # that start died before it wrote run.json
    assert not restart.is_ours(tmp_path, OURS)
    started(tmp_path)
    assert not restart.is_ours(tmp_path, {})
    assert not restart.is_ours(tmp_path, FIRST)
    assert restart.is_ours(tmp_path, AGAIN)
    started(tmp_path, seconds_ago=age_of_our_parent_s() + 60)
    assert not restart.is_ours(tmp_path, AGAIN)
    assert restart.is_ours(tmp_path, OURS)  # launchers.train looked before its first start


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"segments": []}', '{"segments": [{}]}', '{"segments": [1]}']
)
def test_a_run_json_that_tells_nothing_is_nobodys(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    assert not restart.is_ours(tmp_path, AGAIN)


def test_torchrun_does_not_get_an_agreed_stop_or_a_hopeless_failure_to_go_on(tmp_path: Path) -> None:
    started(tmp_path)
    write_status(tmp_path, "failed", 4, "rank 1 failed")
    restart.check(tmp_path, AGAIN)
    write_status(tmp_path, "preempted", 5, "SIGTERM")
    restart.check(tmp_path, {})
    restart.check(tmp_path, FIRST)
    restart.check(tmp_path, OURS)
    with pytest.raises(NotRestarted, match=r"stopped at step 5.*--resume") as stopped:
        restart.check(tmp_path, AGAIN)
    assert stopped.value.code == EXIT_STOPPED_EARLY
    write_status(tmp_path, "failed", 5, "step 5: the loss is not finite", would_repeat=True)
    with pytest.raises(NotRestarted, match="step 5: the loss is not finite") as failed:
        restart.check(tmp_path, AGAIN)
    assert failed.value.code == EXIT_FAILED
    started(tmp_path, seconds_ago=age_of_our_parent_s() + 60)  # of an earlier command, then given --resume
    restart.check(tmp_path, AGAIN)


def test_why_names_who_left_no_word_and_the_first_who_did(tmp_path: Path) -> None:
    (tmp_path / "failure-1.txt").write_text("of an earlier start\n")
    os.utime(tmp_path / "failure-1.txt", (1, 1))
    started(tmp_path)
    assert restart.why(tmp_path) == "ranks 0, 1 left no word"
    (tmp_path / "failure-0.txt").write_text("rank 0 failed at step 3: gone\n\nTraceback")
    told = "rank 1 left no word; rank 0 failed at step 3: gone"
    assert restart.why(tmp_path) == told
    note = tmp_path / "failure-0.txt"
    note.write_text("rank 0 failed at step 3: RuntimeError: Connection closed by peer\n")
    assert restart.why(tmp_path) == "rank 1 left no word"
    note.write_text("rank 0 failed at step 3: gone\n\nTraceback")
    assert restart.line(tmp_path, 40, AGAIN) == f"restart 1 of 3 from step 40: {told}"
    assert restart.line(tmp_path, 40, FIRST) is restart.line(tmp_path, 40, OURS) is None


def test_a_restart_with_the_first_starts_arguments_goes_on(tmp_path: Path, monkeypatch, capsys) -> None:
    def opened(*overrides: str):
        given = Options(recipe=TINY, run_dir=tmp_path / "run", set=[("steps=5", *overrides)])
        return open_run(given, "torch-ddp", WORLD)

    run = opened()
    assert run.options.resume is False
    (tmp_path / "run").mkdir()
    content = {"recipe_id": run.recipe.recipe_id, "recipe": run.recipe.as_dict(), "micro_batches": 2}
    segments = [{"started_unix_s": time.time(), "workers": 2}]
    (tmp_path / "run" / "run.json").write_text(json.dumps({**content, "segments": segments}))
    with pytest.raises(UsageError, match="exists already"):
        opened()
    for name, value in AGAIN.items():
        monkeypatch.setenv(name, value)
    run = opened()
    assert run.options.resume
    assert run.segments == segments
    assert run.start.step == 0
    assert run.notes == ["no checkpoint to resume from; starting again at step 0"]
    told = "trimaran: restart 1 of 3 from step 0: ranks 0, 1 left no word\n"
    assert capsys.readouterr().err == told
    with pytest.raises(UsageError, match=r"differs from .*run.json in seed"):
        opened("seed=9")
