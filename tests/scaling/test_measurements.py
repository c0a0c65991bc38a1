"""What a prediction is handed: the compute of one worker and the steps, and the reader takes it."""

import json
from pathlib import Path

import pytest

from scaling.analysis import analyse
from scaling.cases import group
from scaling.measured import measured
from scaling.measurements import measurements
from scaling.records import read_record
from tests.scaling.generated import World, read_entries, write_entries, write_study

WORLD = World(exchange_s=lambda workers, ideal_s: 0.02, straggler_s=((1, 0.03),), data_s=((1, 0.01),))


def entries_of(study_dir: Path) -> list[dict]:
    return measurements(group(read_record(study_dir, entry) for entry in read_entries(study_dir)))


def test_one_curve_is_one_entry(tmp_path: Path) -> None:
    (entry,) = entries_of(write_study(tmp_path, WORLD, scaling="weak", workers=(4, 2), repetitions=2))
    assert entry["compute_s"] == pytest.approx([0.13, 0.13]), (
        "the slowest rank's, without its waiting for data"
    )
    assert (entry["compute_workers"], entry["global_batch"]) == (2, 192)
    assert entry["recipe_values"]["data"]["global_batch"] == 192
    assert {workers: pytest.approx(steps) for workers, steps in entry["steps"].items()} == {
        "1": [0.1, 0.1],
        "2": [0.16, 0.16],
        "4": [0.16, 0.16],
    }
    assert entry["workers_per_node"] is entry["links"] is None


def test_without_runs_that_do_not_exchange_the_base_tells_the_compute(tmp_path: Path) -> None:
    (entry,) = entries_of(write_study(tmp_path, WORLD, scaling="strong", workers=(2,), alone=False))
    assert (entry["compute_workers"], entry["global_batch"]) == (1, 96)
    assert entry["compute_s"] == pytest.approx([0.1] * 3)


def test_several_nodes_say_how_many_workers_fill_one(tmp_path: Path) -> None:
    write_study(tmp_path, WORLD, workers=(2, 8))
    entries = read_entries(tmp_path)
    write_entries(tmp_path, [entry | {"nodes": 4 if entry["workers"] == 8 else 1} for entry in entries])
    assert entries_of(tmp_path)[0]["workers_per_node"] == 2


def test_oversubscribed_cases_are_not_handed_on(tmp_path: Path) -> None:
    write_study(tmp_path, WORLD, workers=(2, 4))
    for path in (tmp_path / "runs").glob("torch-ddp-4-*/run.json"):
        saved = json.loads(path.read_text())
        saved["segments"][0]["oversubscribed"] = True
        path.write_text(json.dumps(saved))
    assert list(entries_of(tmp_path)[0]["steps"]) == ["1", "2"]


def test_the_reader_takes_what_is_written(tmp_path: Path) -> None:
    analyse(write_study(tmp_path, WORLD, workers=(2, 4)))
    (case,) = measured(tmp_path).cases
    assert (case.strategy, case.scaling, case.compute_workers) == ("torch-ddp", "strong", 2)
    assert sorted(case.steps_s) == [1, 2, 4]
