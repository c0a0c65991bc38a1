"""Whatever a run directory has become: a resume finds a sound run or says one line, and no row is lost."""

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recipes.checking import RecipeError
from telemetry.run_log import RunLog, discard_after, parse_row, read_rows
from tests.faults.changed_runs import LOGS, RECIPE, ROWS, STEPS, TABLES, changes, make_run, written
from tests.faults.fuzzing import (
    NODES,
    examples,
    in_time,
    is_one_line,
    tree,
)
from training.options import Options
from training.problems import UsageError
from training.run import Run, open_run
from training.world import World

ALONE = World(0, 0, 1, 1, (0,), "direct")


@pytest.fixture
def make(tmp_path: Path):
    return partial(make_run, tmp_path)


def resumed(run_dir: Path, **options: Any) -> Run | None:
    """The run, or None where one line says why there is none. The directory is as it was."""
    before = tree(run_dir)
    try:
        run = in_time(
            lambda: open_run(Options(run_dir=run_dir, resume=True, **options), "torch-single", ALONE)
        )
    except (UsageError, RecipeError) as error:
        assert is_one_line(error), error
        return None
    finally:
        assert tree(run_dir) == before
    assert all(map(is_one_line, run.notes)), run.notes
    return run


@examples(120)
@given(changes(["run.json", "status.json"]))
@example(("run.json", b"[" * 9_000))  # RecursionError
@example(("run.json", "pipe"))  # waited for a writer, for ever
@example(("run.json", written({**TABLES["run.json"], "micro_batches": "2"})))  # TypeError
@example(("run.json", written({**TABLES["run.json"], "micro_batches": 0})))
@example(
    ("run.json", written({**TABLES["run.json"], "segments": 7}))
)  # TypeError, after the group was joined
@example(
    ("run.json", written({**TABLES["run.json"], "recipe_id": "0" * 16}))
)  # a fresh start, without a word
@example(("status.json", "pipe"))
def test_a_resume_finds_a_sound_run_or_says_why_not(make, change: tuple[str, bytes | str]) -> None:
    run = resumed(make(change))
    if run is not None:
        assert run.recipe.recipe_id == RECIPE.recipe_id or change[0] == "run.json"
        assert all(isinstance(segment, dict) for segment in [*run.segments])
        assert run.recipe.data.global_batch % (run.accumulation * run.workers) == 0
    else:
        assert change[0] == "run.json"


def test_a_recipe_that_was_edited_is_refused_and_not_begun_anew(make) -> None:
    content = json.loads(json.dumps(TABLES["run.json"]))
    content["recipe"]["optimizer"]["learning_rate"] = 0.7
    with pytest.raises(UsageError, match=r"run\.json: recipe_id: found '\w{16}', but its recipe has \w{16}"):
        open_run(Options(run_dir=make(("run.json", written(content))), resume=True), "torch-single", ALONE)


def lines_in(run_dir: Path) -> Counter[bytes]:
    """Every line of every log, discarded or not; one that was cut short counts as a line."""
    files = [
        path for path in run_dir.glob("*.jsonl") if path.is_file() and not path.name.startswith("telemetry")
    ]
    return Counter(line for path in files for line in path.read_bytes().split(b"\n") if line)


@examples(80)
@given(st.lists(changes(LOGS), min_size=1, max_size=3), st.integers(-1, 20))
@example([("metrics.jsonl", b'{"loss": 1}\n')], 4)  # KeyError
@example([("metrics.jsonl", b'{"step": "4"}\n')], 4)  # TypeError
@example([("metrics.jsonl", b'{"step": 4}\n\0\0\0\n{"step": 6}\n')], 4)  # ValueError: no run could go on
@example([("timing-0.jsonl", b"[" * 9_000)], 4)  # RecursionError
@example([("metrics.jsonl", "pipe")], 4)
@example([("metrics.jsonl", "full directory")], 4)
def test_no_row_is_lost_where_a_run_goes_on(make, changed: list, step: int) -> None:
    run_dir = make(*changed)
    before, names = lines_in(run_dir), {path.name for path in run_dir.iterdir()}
    try:
        moved = in_time(lambda: discard_after(run_dir, step))
    except OSError as error:
        assert any(content in NODES for _, content in changed)
        assert error.strerror and is_one_line(error)
        assert lines_in(run_dir) == before
        return
    assert lines_in(run_dir) == before
    assert names <= {path.name for path in run_dir.iterdir()}
    assert (moved > 0) == bool(list(run_dir.glob("*.discarded.jsonl")))
    for name in LOGS:
        if (run_dir / name).exists():
            assert all(type(row["step"]) is int and row["step"] <= step for row in read_rows(run_dir / name))
    assert in_time(lambda: discard_after(run_dir, step)) == 0
    log = RunLog(run_dir, rank=0, writes_metrics=True, resume=True)
    log.metrics({"step": step + 1})
    log.close()
    assert read_rows(run_dir / "metrics.jsonl")[-1] == {"step": step + 1}


@examples(60)
@given(st.integers(0, 400), st.integers(0, 16))
def test_rows_moved_twice_stand_whole_after_a_first_time_that_was_cut_short(
    make, cut: int, step: int
) -> None:
    """As after a kill -9 within the first append to metrics.discarded.jsonl: metrics.jsonl is still as it was."""
    content = written(ROWS["metrics.jsonl"])
    later = b"".join(line + b"\n" for line in content.splitlines() if (parse_row(line) or {})["step"] > step)
    run_dir = make(("metrics.jsonl", content))
    (run_dir / "metrics.discarded.jsonl").write_bytes(later[:cut])
    discard_after(run_dir, step)
    rows = [parse_row(line) for line in (run_dir / "metrics.discarded.jsonl").read_bytes().splitlines()]
    assert [row["step"] for row in rows if row][-len(later.splitlines()) or len(rows) :] == [
        s for s in STEPS if s > step
    ]
