from scaling.tables import (
    COUNTED,
    case_rows,
    fit_rows,
    left_out_rows,
    left_out_words,
    pruned,
    undetermined,
    usage_rows,
)
from tests.scaling.report_cases import case, estimate

NOTHING = {"failed_runs": [], "not_steady_runs": [], "planned_runs": [], "oversubscribed_runs": []}
FIT = {
    "strategy": "torch-ddp",
    "law": "usl",
    "parameters": {"contention": estimate(0.02), "coherency": estimate(0.001)},
    "residual": 0.0123,
    "reason": None,
}
UNDETERMINED = {
    **FIT,
    "parameters": None,
    "residual": None,
    "reason": "undetermined: found 2, expected at least 3 worker counts above 1",
}


def counted(*cases: dict, **known: float) -> dict:
    return {one["name"]: dict.fromkeys(COUNTED) | known for one in cases}


def test_a_case_without_figures_has_a_row_with_its_reason() -> None:
    broken = case(
        "tf-horovod", 8, None, step_time_s=None, global_batch=None, reason="no run was steady", runs=[]
    )
    rows = case_rows({"cases": [broken, case()]}, counted(broken, case(), peak_memory_bytes=2**20))
    assert [row["strategy"] for row in rows] == ["torch-ddp", "tf-horovod"]
    assert rows[0]["efficiency"] == "90.0 % [89.1, 90.9]"
    assert rows[0]["runs"] == "3 of 3"
    assert rows[1]["efficiency"] == "n/a: no run was steady"
    assert (rows[1]["step"], rows[1]["global batch"], rows[1]["runs"]) == ("n/a", "n/a", "0 of 0")


def test_runs_of_which_some_are_not_steady_are_counted() -> None:
    one = case()
    one["runs"][0]["step_time_s"] = None
    assert case_rows({"cases": [one]}, counted(one))[0]["runs"] == "2 of 3"


def test_usage_has_a_row_where_anything_is_known() -> None:
    known, unknown = case("torch-ddp", energy_per_sample_j=estimate(0.5)), case("tf-mirrored")
    analysis = {"cases": [known, unknown]}
    (row,) = usage_rows(analysis, counted(known, unknown, peak_memory_bytes=5))
    assert (row["energy a sample"], row["GPU busy"]) == ("0.500 J [0.495, 0.505]", "n/a")
    assert len(usage_rows(analysis, counted(known, unknown, host_cpu_percent=0.0))) == 2


def test_every_run_that_was_left_out_is_told() -> None:
    analysis = {
        "failed_runs": [{"id": "a", "reason": None}],
        "not_steady_runs": [{"id": "b", "reason": "not steady: 3 windows"}],
        "planned_runs": [{"id": "c", "reason": "was not started"}],
        "oversubscribed_runs": ["d", "e"],
    }
    rows = left_out_rows(analysis)
    assert [(row["run"], row["state"]) for row in rows] == [
        ("a", "failed"), ("b", "not steady"), ("c", "never started"), ("d", "oversubscribed"), ("e", "oversubscribed"),
    ]  # fmt: skip
    assert rows[0]["reason"] == "no reason given"
    words = "1 run failed, 1 run not steady, 1 run never started and 2 runs oversubscribed"
    assert left_out_words(analysis) == words
    assert left_out_words(NOTHING) == "no run failed or was left out"


def test_a_law_has_its_parameters_or_why_not() -> None:
    found, not_found = fit_rows([FIT, UNDETERMINED])
    assert found["parameters"] == "contention 2.00 % [1.98, 2.02]; coherency 0.10 % [0.10, 0.10]"
    assert found["residual"] == "1.23 %"
    assert not_found["parameters"].startswith("undetermined: found 2")
    assert not_found["residual"] == "n/a"
    assert undetermined([FIT, UNDETERMINED]) is None
    several = [
        UNDETERMINED,
        UNDETERMINED,
        {**UNDETERMINED, "law": "gustafson", "reason": "undetermined: found none"},
    ]
    assert undetermined(several) == (
        "universal scalability law: found 2, expected at least 3 worker counts above 1; Gustafson: found none"
    )


def test_columns_that_are_unknown_everywhere_are_named_instead() -> None:
    rows, told = pruned([{"a": "1", "b": "n/a", "c": "n/a"}, {"a": "2", "b": "n/a", "c": "3"}])
    assert rows == [{"a": "1", "c": "n/a"}, {"a": "2", "c": "3"}]
    assert told == "Unknown (n/a) in every row: b."
    assert pruned([{"nodes": "1", "b": "1"}]) == ([{"b": "1"}], "All on one node.")
    assert pruned([{"nodes": "1"}, {"nodes": "2"}]) == ([{"nodes": "1"}, {"nodes": "2"}], "")
    assert pruned([]) == ([], "")
