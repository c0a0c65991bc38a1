import json
from pathlib import Path

import pytest

from scaling.grid import Planned
from scaling.ledger import Ledger
from training.problems import UsageError

RUNS = [Planned("study-gpt", "torch-ddp", workers, 1, "weak", 1, True) for workers in (1, 2, 4)]
SETTINGS = {"recipes": "study-gpt", "repetitions": 3, "seed": 0, "set": ["steps=20"]}


def test_study_json_has_every_run_and_how_it_ended(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "s")
    ledger.open("s", SETTINGS)
    ledger.record(RUNS[0], 1, "", 3.25)
    ledger.record(RUNS[1], 2, "rank 1 ended with signal SIGKILL", 2.0)
    assert ledger.ending(RUNS[0])["state"] == "completed"
    assert ledger.ending(RUNS[2]) is None
    study = ledger.collect(RUNS)
    assert study == json.loads((tmp_path / "s" / "study.json").read_text())
    assert (study["format"], study["name"]) == (1, "s")
    assert [run["state"] for run in study["runs"]] == ["completed", "failed", "planned"]
    first = study["runs"][0]
    assert first["directory"] == f"runs/{RUNS[0].id}"
    assert (first["wall_s"], first["order"], first["reason"]) == (3.25, 1, None)
    assert study["runs"][1]["reason"] == "rank 1 ended with signal SIGKILL"
    keys = {"id", "directory", "recipe", "strategy", "workers", "nodes", "scaling", "repetition", "exchange"}
    assert all(run.keys() == keys | {"order", "state", "reason", "wall_s"} for run in study["runs"])


def test_jobs_that_plan_different_sizes_share_a_study(tmp_path: Path) -> None:
    for run in RUNS:
        ledger = Ledger(tmp_path / "s")
        ledger.open("s", SETTINGS | {"nodes": str(run.workers)})
        ledger.record(run, 1, "", 1.0)
        ledger.collect([run])
    assert [run["workers"] for run in Ledger(tmp_path / "s").collect([])["runs"]] == [1, 2, 4]


def test_a_study_goes_on_with_more_but_not_with_other_runs(tmp_path: Path) -> None:
    Ledger(tmp_path).open("s", SETTINGS)
    Ledger(tmp_path).open("s", SETTINGS | {"repetitions": 5, "recipes": "study-gpt,study-resnet"})
    with pytest.raises(
        UsageError, match=r"^--set: found \['steps=40'\], but .* was begun with \['steps=20'\]"
    ):
        Ledger(tmp_path).open("s", SETTINGS | {"set": ["steps=40"]})


def test_a_failed_run_can_be_forgotten_and_a_cut_file_is_no_ending(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.open("s", SETTINGS)
    ledger.record(RUNS[0], 1, "why", 1.0)
    ledger.forget(RUNS[0])
    assert ledger.ending(RUNS[0]) is None
    (tmp_path / "runs" / f"{RUNS[1].id}.json").write_text('{"sta')
    assert ledger.ending(RUNS[1]) is None
    assert [run["state"] for run in ledger.collect(RUNS)["runs"]] == ["planned"] * 3
