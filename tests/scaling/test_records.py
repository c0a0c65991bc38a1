"""A run directory becomes a record, or a record that says why not."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.records import Record, read_record
from tests.scaling.generated import planned, write_run

TIMES = np.tile([[3.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]], (2, 1)) * [[1.0], [2.0]]


def written(study_dir: Path, times: np.ndarray = TIMES, **changes) -> Path:
    return write_run(study_dir / "runs" / "a", times, times / 10, **changes)


def read(study_dir: Path, workers: int = 2, strategy: str = "torch-ddp", **more) -> Record:
    return read_record(study_dir, planned("a", strategy, workers, "strong", **more))


def test_the_slowest_rank_sets_the_pace(tmp_path: Path) -> None:
    written(tmp_path)
    record = read(tmp_path)
    assert (record.state, record.reason, record.steady.start) == ("completed", None, 1)
    assert record.step_s == pytest.approx(0.2)
    assert record.samples_per_s == pytest.approx(96 / 0.2)
    assert record.tokens_per_s is None
    assert record.steady_data_time_s.tolist() == [[pytest.approx(0.01)] * 7, [pytest.approx(0.02)] * 7]
    assert list(record.losses)[:2] == [1, 6]
    assert (record.energy_per_sample_j, record.oversubscribed, record.framework) == (None, False, "torch")


def test_ranks_that_are_slow_in_turn_all_count(tmp_path: Path) -> None:
    times = np.full((2, 8), 0.1)
    times[0, ::2] = times[1, 1::2] = 0.3
    written(tmp_path, times)
    assert read(tmp_path).step_s == pytest.approx(0.3)


def test_tokens_energy_and_cores_are_read(tmp_path: Path) -> None:
    run_dir = written(tmp_path, oversubscribed=True)
    rows = [{"step": step, "loss": 1.0, "tokens": 960 * step} for step in (1, 6, 11)]
    rows[1]["loss"] = None  # it was not finite
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run_dir / "summary.json").write_text('{"energy_per_sample_j": 1.5}')
    record = read(tmp_path)
    assert record.tokens_per_s == pytest.approx(960 / 0.2)
    assert record.losses == {1: 1.0, 6: None, 11: 1.0}
    assert (record.energy_per_sample_j, record.oversubscribed) == (1.5, True)
    spoil(run_dir, "summary.json", "{")
    assert (read(tmp_path).state, read(tmp_path).energy_per_sample_j) == ("completed", None)


def test_windows_beside_a_profiler_are_left_out(tmp_path: Path) -> None:
    run_dir = written(tmp_path)
    for path in run_dir.glob("timing-*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        profiled = {**rows[3], "step_time_s": 9.0, "profiled": True}
        path.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:3], profiled, *rows[4:]]))
    record = read(tmp_path)
    assert record.step_time_s.shape == (2, 7)
    assert record.step_time_s[:, 1:].max() == pytest.approx(0.2)


def spoil(run_dir: Path, name: str, content: str | None) -> None:
    if content is None:
        (run_dir / name).unlink()
    else:
        (run_dir / name).write_text(content)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("run.json", None, "run.json: not found"),
        ("run.json", '{"recipe": ', "run.json: cannot be read"),
        ("run.json", "[]", "run.json: found list, expected an object"),
        ("run.json", "{}", "run.json: found no recipe.data.global_batch"),
        (
            "run.json",
            '{"recipe": {"data": {"global_batch": 8}}, "segments": [{}, {}]}',
            "run.json: found 2 starts, expected one",
        ),
        (
            "run.json",
            '{"recipe": {"data": {"global_batch": 8}}, "segments": [{}], "exchange": false}',
            "run.json: exchange: found False, expected True as planned",
        ),
        ("status.json", None, "status.json: not found"),
        (
            "status.json",
            '{"state": "preempted", "reason": "SIGTERM"}',
            r"found 'preempted' \(SIGTERM\), expected 'completed'",
        ),
        ("metrics.jsonl", None, "metrics.jsonl: not found"),
        ("metrics.jsonl", '{"loss": 1.0}\n', "metrics.jsonl: found a row without step"),
        ("timing-1.jsonl", None, "timing-1.jsonl: not found, expected 2 ranks' files"),
        ("timing-1.jsonl", "", "found no step that all ranks logged"),
        ("timing-1.jsonl", '{"step": 1}\n', "timing-1.jsonl: found a row without step"),
        ("timing-0.jsonl", '{"st\n{"step": 1}\n', "timing-0.jsonl: line 1 is no JSON object"),
    ],
)
def test_what_is_missing_or_spoiled_makes_a_failed_run(
    tmp_path: Path, name: str, content: str | None, reason: str
) -> None:
    spoil(written(tmp_path), name, content)
    record = read(tmp_path)
    assert record.state == "failed"
    assert re.search(reason, str(record.reason))
    assert "\n" not in str(record.reason)
    assert not record.is_usable
    assert record.step_s is None


def test_why_a_run_failed_goes_before_what_it_left_behind(tmp_path: Path) -> None:
    record = read(tmp_path, state="failed", reason="exit code 1: out of memory\nTraceback")
    assert (record.state, record.reason) == ("failed", "exit code 1: out of memory")
    spoil(written(tmp_path), "status.json", '{"state": "failed", "reason": "step 3: the loss is not finite"}')
    assert read(tmp_path, state="failed").reason == "step 3: the loss is not finite"
    assert read(tmp_path).losses, "what it logged until then is still shown"
    assert read(tmp_path, state="planned").reason == "was not started"


def test_a_run_that_is_not_steady_is_completed_and_says_so(tmp_path: Path) -> None:
    written(tmp_path, np.linspace([0.1, 0.1], [0.3, 0.3], 40, axis=1))
    record = read(tmp_path)
    assert (record.state, record.is_usable) == ("completed", False)
    assert str(record.reason).startswith("not steady")


def test_one_process_may_drive_all_workers_of_mirrored_alone(tmp_path: Path) -> None:
    written(tmp_path, TIMES[:1])
    assert read(tmp_path, strategy="tf-mirrored").is_usable
    assert (
        read(tmp_path, strategy="tf-horovod").reason == "timing-1.jsonl: not found, expected 2 ranks' files"
    )
    assert read(tmp_path, 4, "tf-mirrored", nodes=2).state == "failed"


@settings(deadline=None)  # the machine may be busy
@given(name=st.sampled_from(["run.json", "status.json", "metrics.jsonl", "timing-1.jsonl"]), data=st.data())
def test_a_file_cut_anywhere_never_raises(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    study_dir = tmp_path_factory.mktemp("study")
    path = written(study_dir) / name
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 2))])
    record = read(study_dir)
    assert record.state == "completed" or record.reason
    if record.state == "completed":
        assert record.steady.start is None or record.step_s == pytest.approx(0.2)
