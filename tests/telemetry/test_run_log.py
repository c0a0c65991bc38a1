import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import run_log
from telemetry.run_log import RunLog, discard_after, read_rows, write_json, write_status


def reject_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def write_steps(run_dir: Path, steps: range, resume: bool = False, rank: int = 0) -> None:
    log = RunLog(run_dir, rank=rank, writes_metrics=rank == 0, resume=resume)
    for step in steps:
        log.timing({"step": step, "step_time_s": 0.5})
        log.metrics({"step": step, "loss": 1.0 / step})
    log.close()


def steps_in(path: Path) -> list[int]:
    return [row["step"] for row in read_rows(path)]


def test_a_metrics_row_can_be_read_as_soon_as_it_is_written(tmp_path: Path) -> None:
    log = RunLog(tmp_path, rank=0, writes_metrics=True, resume=False)
    row = {"step": 10, "loss": 0.1234567890123456789, "sample_digest": "0a1b", "samples": None}
    log.metrics(row)
    assert read_rows(tmp_path / "metrics.jsonl") == [row]
    log.close()


def test_timing_rows_are_held_until_the_next_metrics_row_or_the_end(tmp_path: Path) -> None:
    log = RunLog(tmp_path, rank=3, writes_metrics=False, resume=False)
    path = tmp_path / "timing-3.jsonl"
    log.timing({"step": 1})
    assert not path.exists()
    log.metrics({"step": 1})
    log.timing({"step": 2})
    assert steps_in(path) == [1]
    log.close()
    log.close()
    assert steps_in(path) == [1, 2]


def test_a_process_that_writes_no_metrics_leaves_only_its_timing(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 3), rank=1)
    assert [path.name for path in tmp_path.iterdir()] == ["timing-1.jsonl"]


@pytest.mark.parametrize(
    ("value", "name"), [(float("nan"), "nan"), (np.float32("inf"), "inf"), (-np.inf, "-inf")]
)
def test_a_float_that_is_not_finite_is_null_with_a_note(tmp_path: Path, value: float, name: str) -> None:
    log = RunLog(tmp_path, rank=0, writes_metrics=True, resume=False)
    log.metrics({"step": 1, "loss": value, "grad_norm": 2.0})
    log.close()
    line = (tmp_path / "metrics.jsonl").read_text()
    row = json.loads(line, parse_constant=reject_constant)
    assert row == {"step": 1, "loss": None, "loss_nonfinite": name, "grad_norm": 2.0}


@given(
    value=st.recursive(st.floats() | st.integers(), lambda inner: st.dictionaries(st.text(max_size=3), inner))
)
def test_every_row_is_strict_json(value: object) -> None:
    json.loads(run_log._line({"step": 1, "value": value}), parse_constant=reject_constant)


def test_numpy_values_are_written_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"count": np.int64(3), "norm": np.float32(0.5), "bounds": np.array([1.0, 2.0])})
    assert json.loads(path.read_text()) == {"count": 3, "norm": 0.5, "bounds": [1.0, 2.0]}


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"seed": 1})
    with pytest.raises(TypeError):
        write_json(path, {"seed": object()})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"losses": [float("nan")]})
    assert json.loads(path.read_text()) == {"seed": 1}
    (tmp_path / "directory").mkdir()
    with pytest.raises(IsADirectoryError):
        write_json(tmp_path / "directory", {})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["directory", "run.json"]


def test_status(tmp_path: Path) -> None:
    write_status(tmp_path, "running", 0)
    write_status(tmp_path, "preempted", 12, reason="SIGTERM")
    status = json.loads((tmp_path / "status.json").read_text())
    assert status == {"state": "preempted", "step": 12, "reason": "SIGTERM"}
    with pytest.raises(
        ValueError, match=r"'finished', expected one of running, completed, preempted, failed"
    ):
        write_status(tmp_path, "finished", 12)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_on_a_full_disk_the_status_takes_the_place_of_the_one_before(
    tmp_path: Path, monkeypatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    write_status(tmp_path, "preempted", 3, reason="a rather long reason " * 20)
    before = (tmp_path / "status.json").read_text()
    monkeypatch.setattr(run_log, "write_json", refuse)
    if number == errno.EROFS:
        with pytest.raises(OSError, match="Read-only"):
            write_status(tmp_path, "failed", 4)
        assert (tmp_path / "status.json").read_text() == before
    else:
        write_status(tmp_path, "failed", 4, "full", would_repeat=True)
        status = json.loads((tmp_path / "status.json").read_text())
        assert status == {"state": "failed", "step": 4, "reason": "full", "would_repeat": True}
    with pytest.raises(OSError, match=os.strerror(number)):  # there is no place to take
        write_status(tmp_path / "new", "failed", 4)


@pytest.mark.parametrize("rank", [0, 1])
def test_rows_of_an_earlier_run_are_not_overwritten(tmp_path: Path, rank: int) -> None:
    write_steps(tmp_path, range(1, 3), rank=rank)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    with pytest.raises(FileExistsError, match=rf"timing-{rank}.jsonl: found rows of an earlier run"):
        RunLog(tmp_path, rank=rank, writes_metrics=rank == 0, resume=False)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.jsonl")} == before


def test_after_resuming_each_step_stands_once(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 8))
    write_steps(tmp_path, range(1, 8), rank=1)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')
    assert discard_after(tmp_path, 4) == 4 + 3 + 3
    write_steps(tmp_path, range(5, 10), resume=True)
    write_steps(tmp_path, range(5, 10), resume=True, rank=1)
    for name in ("metrics", "timing-0", "timing-1"):
        assert steps_in(tmp_path / f"{name}.jsonl") == list(range(1, 10))
        assert (tmp_path / f"{name}.discarded.jsonl").read_text().startswith('{"step": 5, ')
    assert (tmp_path / "metrics.discarded.jsonl").read_text().endswith('{"step": 8, "lo\n')


def test_discarding_twice_keeps_the_rows_discarded_first(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 6))
    discard_after(tmp_path, 3)
    write_steps(tmp_path, range(4, 7), resume=True)
    discard_after(tmp_path, 5)
    assert steps_in(tmp_path / "metrics.jsonl") == [1, 2, 3, 4, 5]
    for name in ("metrics", "timing-0"):
        assert steps_in(tmp_path / f"{name}.discarded.jsonl") == [4, 5, 6]
    assert len(list(tmp_path.glob("*.jsonl"))) == 4


@given(st.integers(min_value=0, max_value=6), st.data())
def test_a_file_cut_anywhere_loses_no_whole_row(
    tmp_path_factory: pytest.TempPathFactory, step: int, data: st.DataObject
) -> None:
    run_dir = tmp_path_factory.mktemp("run")
    path = run_dir / "metrics.jsonl"
    whole = b"".join(json.dumps({"step": i, "loss": i / 7}).encode() + b"\n" for i in range(1, 7))
    content = whole[: data.draw(st.integers(min_value=0, max_value=len(whole)))]
    path.write_bytes(content)
    rows = read_rows(path)
    discard_after(run_dir, step)
    assert read_rows(path) == [row for row in rows if row["step"] <= step]
    discarded = run_dir / "metrics.discarded.jsonl"
    left = path.read_bytes() + (discarded.read_bytes() if discarded.exists() else b"")
    assert left.rstrip(b"\n") == content.rstrip(b"\n")
    assert not path.read_bytes() or path.read_bytes().endswith(b"\n")


def test_nothing_to_discard_leaves_the_files_untouched(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 4))
    before = (tmp_path / "metrics.jsonl").stat().st_ino
    assert discard_after(tmp_path, 3) == 0
    assert (tmp_path / "metrics.jsonl").stat().st_ino == before
    assert not list(tmp_path.glob("*discarded*"))


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl: line 2 is no JSON object"):
        read_rows(path)


def test_importing_the_run_log_loads_nothing_but_the_standard_library() -> None:
    code = "import sys; import telemetry.run_log; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout.split()
    )
    before = set(
        subprocess.run(
            [sys.executable, "-c", "import sys; print(*sys.modules)"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
    )
    assert "telemetry" in loaded
    assert loaded - before - {"telemetry"} <= sys.stdlib_module_names
