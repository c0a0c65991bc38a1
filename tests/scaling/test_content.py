"""What the sections are put together from; test_report.py reads them as a whole."""

import json
from pathlib import Path

from scaling.content import counters, study_command
from scaling.details import Details
from scaling.study import StudyOptions, make_grid
from tests.scaling.report_cases import case
from training.options import parse


def test_the_command_of_a_study_plans_the_runs_that_it_had(tmp_path: Path) -> None:
    words = [
        "--recipes", "study-gpt,study-resnet", "--strategies", "torch-ddp,tf-mirrored", "--workers", "1,2",
        "--scaling", "weak,strong", "--repetitions", "2", "--seed", "7", "--set", "steps=30", "data.global_batch=12",
    ]  # fmt: skip
    for more in ([], ["--no-decompose"]):
        options = parse(StudyOptions, "study", [*words, *more])
        runs = make_grid(options).runs()
        study = {
            "name": "mine",
            "fixed": {"seed": options.seed, "set": list(options.overrides)},
            "runs": [vars(run) for run in runs],
        }
        (tmp_path / "study.json").write_text(json.dumps(study))
        command = study_command(tmp_path).split()
        assert command[:3] == ["python", "-m", "scaling.study"]
        again = parse(StudyOptions, "study", command[3:])
        assert again.name == "mine"
        assert sorted(run.id for run in make_grid(again).runs()) == sorted(run.id for run in runs)
        assert (again.seed, again.overrides) == (options.seed, options.overrides)


def test_a_study_over_nodes_says_how_many_workers_each_has(tmp_path: Path) -> None:
    run = {"recipe": "demo", "strategy": "torch-ddp", "scaling": "weak", "repetition": 1, "exchange": True}
    sizes = [{"workers": count, "nodes": nodes} for count, nodes in ((4, 1), (8, 2), (16, 4))]
    (tmp_path / "study.json").write_text(json.dumps({"runs": [{**run, **size} for size in sizes]}))
    assert "--workers 4 --nodes 1,2,4 --workers-per-node 4" in study_command(tmp_path)


def test_a_case_has_the_median_of_its_runs() -> None:
    one = case()
    details = {
        run["id"]: Details(run["id"], host_cpu_percent=value)
        for run, value in zip(one["runs"], (10.0, None, 30.0), strict=True)
    }
    assert counters(one, details)["host_cpu_percent"] == 20.0
    assert counters(one, details)["gpu_busy_percent"] is None
