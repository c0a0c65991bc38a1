import json
from pathlib import Path

import pytest

from scaling.details import Details
from scaling.versus import paired, read_frameworks, versus_rows, versus_sentences
from tests.scaling.report_cases import case, estimate

FRAMEWORKS = {
    "date_utc": "2026-11-23", "command": "python -m scaling.frameworks", "elapsed_s": 12.0,
    "versions": dict.fromkeys(("python", "torch", "tensorflow", "keras"), "1.0"),
    "hardware": {"cpu": "EPYC", "cpu_cores_usable": 2},
    "twins": [{"purpose": "models", "torch_lines": 100, "tf_lines": 120}],
    "rows": [],
    "problems": [{"framework": "tf", "probe": "export", "problem": "ended with 1: no memory"}],
}  # fmt: skip


def base(strategy: str, step_s: float, spread: float | None = 0.01) -> dict:
    found = case(strategy, 1, None, scaling="base", step_time_s=estimate(step_s, spread))
    return {**found, "name": f"demo base {strategy} 1"}


def test_pairs_are_of_equal_size_and_the_largest_that_both_have() -> None:
    cases = [
        *(case(name, count) for name in ("torch-ddp", "tf-mirrored") for count in (1, 2)),
        case("torch-ddp", 8),
        case("torch-horovod", 2),
        case("tf-horovod", 2, global_batch=7),
        base("tf-single", 0.14),
        base("torch-single", 0.1),
    ]
    found = [(first["strategy"], second["strategy"], first["workers"]) for first, second in paired(cases)]
    assert found == [("torch-single", "tf-single", 1), ("torch-ddp", "tf-mirrored", 2)]


def test_oversubscribed_and_failed_cases_are_no_pair() -> None:
    for broken in ({"oversubscribed": True}, {"step_time_s": None}):
        assert paired([case("torch-ddp"), case("tf-mirrored", **broken)]) == []


def test_how_much_longer_is_said_whoever_is_slower_and_not_where_intervals_overlap() -> None:
    slow, fast = base("tf-single", 0.15), base("torch-single", 0.1)
    assert versus_sentences([slow, fast]) == [
        "demo, 1 worker: a step of tf-single takes 1.50 times as long as one of torch-single."
    ]
    slow, fast = base("torch-single", 0.15), base("tf-single", 0.1)
    assert "a step of torch-single takes 1.50 times" in versus_sentences([slow, fast])[0]
    assert "take as long" in versus_sentences([base("torch-single", 0.1), base("tf-single", 0.101)])[0]
    told = versus_sentences([base("torch-single", 0.1, None), base("tf-single", 0.101, None)])
    assert "1.01 times" in told[0]


def test_a_row_tells_memory_start_and_compilation() -> None:
    cases = [base("torch-single", 0.1), base("tf-single", 0.14)]
    details = {run["id"]: Details(run["id"]) for one in cases for run in one["runs"]}
    for number, seconds in ((1, 4.0), (2, 5.0), (3, 6.0)):
        name = f"tf-single-1-r{number}"
        details[name] = Details(
            name, first_step_s=seconds, until_first_step_s=seconds + 1, wall_s=20.0, peak_memory_bytes=2**30
        )
    torch, tf = versus_rows(cases, details)
    assert tf["first step"] == "5.00 s (+4.86 s)"
    assert (tf["start to first step"], tf["whole run"]) == ("6.00 s", "20.0 s")
    assert tf["memory of a process"] == "1,024 MiB"
    assert (torch["first step"], torch["memory of a process"], torch["whole run"]) == ("n/a", "n/a", "n/a")
    assert (torch["efficiency"], torch["size"]) == ("base", "1 worker, batch 24")


@pytest.mark.parametrize("beside", [False, True])
def test_other_measurements_of_the_frameworks_are_shown_where_there_are_any(
    tmp_path: Path, beside: bool
) -> None:
    study_dir = tmp_path / "study"
    folder = tmp_path / "frameworks" if beside else study_dir
    study_dir.mkdir()
    folder.mkdir(exist_ok=True)
    assert read_frameworks(study_dir) is None
    (folder / "frameworks.json").write_text('{"rows": 3}')
    assert read_frameworks(study_dir) is None
    (folder / "frameworks.json").write_text(json.dumps(FRAMEWORKS))
    found = read_frameworks(study_dir)
    assert found.problems == ["tf export: ended with 1: no memory"]
    assert "2 cores" in found.provenance
    ((title, _, rows),) = found.tables  # those without rows are left out
    assert title == "Lines of code"
    assert rows[0] == {"what": "models", "PyTorch": "100", "TensorFlow": "120"}
