"""A whole study, from run directories that follow a known law to analysis.json."""

import json
import shutil
from pathlib import Path

import pytest

from scaling.analysis import analyse
from scaling.laws import amdahl, gustafson, usl
from tests.scaling.generated import World, following, planned, read_entries, write_entries, write_study
from training.problems import UsageError


def fits_of(analysis: dict) -> dict[str, dict]:
    return {fit["law"]: fit for fit in analysis["fits"]}


def holds(parameter: dict, truth: float) -> bool:
    return parameter["low"] <= truth <= parameter["high"]


def test_amdahls_law_comes_back_from_run_directories(tmp_path: Path) -> None:
    world = World(exchange_s=following(lambda workers: amdahl(workers, 0.9)), run_noise=0.01, noise=0.02)
    fits = fits_of(analyse(write_study(tmp_path, world, repetitions=5)))
    assert holds(fits["amdahl"]["parameters"]["parallel_fraction"], 0.9)
    assert holds(fits["usl"]["parameters"]["contention"], 0.1)
    assert holds(fits["usl"]["parameters"]["coherency"], 0)
    assert fits["amdahl"]["residual"] < 0.02


def test_the_laws_of_weak_scaling_come_back_from_run_directories(tmp_path: Path) -> None:
    for name, law in {"gustafson": lambda n: gustafson(n, 0.2), "usl": lambda n: usl(n, 0.05, 0.002)}.items():
        world = World(exchange_s=following(law), run_noise=0.01, noise=0.02, seed=1)
        study_dir = tmp_path / name
        study_dir.mkdir()
        parameters = fits_of(analyse(write_study(study_dir, world, scaling="weak", repetitions=5)))[name][
            "parameters"
        ]
        truth = {"serial_fraction": 0.2, "contention": 0.05, "coherency": 0.002}
        assert all(holds(value, truth[parameter]) for parameter, value in parameters.items()), parameters


def test_two_worker_counts_are_no_law(tmp_path: Path) -> None:
    fits = fits_of(analyse(write_study(tmp_path, World(), workers=(2, 4))))
    assert fits["amdahl"]["parameters"] is not None
    assert fits["usl"]["parameters"] is None
    assert fits["usl"]["reason"] == "undetermined: found 2, 4, expected at least 3 worker counts above 1"


def test_runs_that_failed_or_wait_or_are_not_steady_are_shown(tmp_path: Path) -> None:
    write_study(tmp_path, World(), workers=(2, 4), repetitions=3)
    entries = read_entries(tmp_path)
    failed, missing, drifting = (entry for entry in entries if entry["workers"] == 4 and entry["exchange"])
    failed |= {"state": "failed", "reason": "rank 3: out of memory"}
    shutil.rmtree(tmp_path / missing["directory"])
    for rank in range(4):
        rows = [{"step": n, "step_time_s": 0.02 * n, "data_time_s": 0.0} for n in range(1, 30)]
        path = tmp_path / drifting["directory"] / f"timing-{rank}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_entries(tmp_path, [*entries, planned("later", "torch-ddp", 8, "strong", state="planned")])
    analysis = analyse(tmp_path)
    assert {run["id"]: run["reason"] for run in analysis["failed_runs"]} == {
        failed["id"]: "rank 3: out of memory",
        missing["id"]: "status.json: not found",
    }
    assert [run["id"] for run in analysis["planned_runs"]] == ["later"]
    assert [run["id"] for run in analysis["not_steady_runs"]] == [drifting["id"]]
    of_four, of_eight = (case for case in analysis["cases"] if case["workers"] in (4, 8))
    assert of_four["speed_up"] is of_eight["speed_up"] is None
    assert of_four["reason"] == "no run reached a steady step time"
    assert [run["state"] for run in of_four["runs"]] == ["failed", "failed", "completed"]
    assert analysis["fits"][0]["worker_counts"] == [2]


def test_oversubscribed_runs_are_marked_and_bear_no_efficiency_and_no_fit(tmp_path: Path) -> None:
    write_study(tmp_path, World(), workers=(2, 4, 8))
    for path in (tmp_path / "runs").glob("torch-ddp-8-*/run.json"):
        saved = json.loads(path.read_text())
        saved["segments"][0]["oversubscribed"] = True
        path.write_text(json.dumps(saved))
    analysis = analyse(tmp_path)
    assert len(analysis["oversubscribed_runs"]) == 6
    marked = [case for case in analysis["cases"] if case["oversubscribed"]]
    assert [(case["workers"], case["efficiency"]) for case in marked] == [(8, None)]
    assert marked[0]["samples_per_s"]["value"] > 0
    assert "parts" not in marked[0]["decomposition"]
    assert {tuple(fit["worker_counts"]) for fit in analysis["fits"]} == {(2, 4)}


def test_strategies_share_a_chart_only_with_what_differs_between_them(tmp_path: Path) -> None:
    entries = []
    for strategy in ("torch-ddp", "tf-horovod"):
        write_study(tmp_path, World(), workers=(2,), strategy=strategy, repetitions=1)
        entries += read_entries(tmp_path)
    write_entries(tmp_path, entries)
    path = tmp_path / "runs" / "tf-horovod-2-strong-0" / "run.json"
    path.write_text(path.read_text().replace('"threads": 1', '"threads": 2'))
    (chart,) = analyse(tmp_path)["differences"]
    assert chart["sentences"] == [
        "settings.threads / workers of a process: 2 in tf-horovod-2-strong-0, 1 in the others"
    ]


def test_the_files_are_the_answer_and_the_same_each_time(tmp_path: Path) -> None:
    write_study(tmp_path, World(run_noise=0.01, noise=0.02), workers=(2, 4))
    analysis = analyse(tmp_path)
    written = (tmp_path / "analysis.json").read_bytes()
    assert json.loads(written) == json.loads(json.dumps(analysis))
    entries = read_entries(tmp_path)
    write_entries(tmp_path, entries[::-1])
    assert analyse(tmp_path) == analysis
    assert (tmp_path / "analysis.json").read_bytes() == written


def test_a_case_tells_its_runs_and_their_losses(tmp_path: Path) -> None:
    analysis = analyse(write_study(tmp_path, World(), workers=(2,), repetitions=2))
    (curve, *_) = analysis["losses"]
    assert (curve["strategy"], curve["steps"][:2], curve["losses"][0]) == ("torch-single", [1, 6], 2.0)
    assert len(analysis["losses"]) == 4, "runs without exchange have no training to show"
    runs = analysis["cases"][1]["runs"]
    assert [(run["repetition"], run["windows"], run["steady_from_step"]) for run in runs] == [
        (0, 24, 2),
        (1, 24, 2),
    ]


def test_an_entry_that_lacks_something_is_named(tmp_path: Path) -> None:
    entry = planned("a", "torch-ddp", 2, "weak")
    for key, value in (("workers", None), ("scaling", "wide"), ("state", "started")):
        write_entries(tmp_path, [entry, entry | {key: value}])
        with pytest.raises(UsageError, match=rf"study.json: runs\[1\].{key}: found {value!r}, expected"):
            analyse(tmp_path)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"format": 2, "runs": []}', '{"format": 1}'])
def test_where_there_is_no_study_one_line_says_so(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "study.json").write_text(content)
    with pytest.raises(
        UsageError, match=r"study.json: (not found|cannot be read|found another format)"
    ) as raised:
        analyse(tmp_path)
    assert "\n" not in str(raised.value)
