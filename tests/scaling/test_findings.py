from scaling.details import Details
from scaling.findings import best_of, groups_of, loss_findings, measured, scaling_findings
from scaling.loss_match import groups
from tests.scaling.report_cases import case, decomposition, estimate, losses

LEFT_OUT = {"failed_runs": [], "not_steady_runs": [], "planned_runs": [], "oversubscribed_runs": []}
PARTS = decomposition(0.09, compute=0.092, exchange=0.008)


def analysis(*cases: dict, **changes: list) -> dict:
    return {"cases": list(cases), **LEFT_OUT, **changes}


def test_the_best_and_the_worst_at_the_most_workers_with_their_largest_loss() -> None:
    cases = [
        case("torch-ddp", 1, 1.0),
        case("torch-ddp", 2, 0.9, decomposition=PARTS),
        case("tf-mirrored", 2, 0.8, decomposition=PARTS),
        case("tf-horovod", 2, 0.7, decomposition=PARTS),
        case("torch-horovod", 4, None),
    ]
    assert scaling_findings(analysis(*cases)) == [
        "demo, weak, 2 workers: torch-ddp keeps 90.0 % [89.1, 90.9] of two workers' speed (largest loss: exposed "
        "communication, 8.0 % of a step); least is tf-horovod with 70.0 % [69.3, 70.7] (largest loss: exposed "
        "communication, 8.0 % of a step)."
    ]


def test_a_loss_whose_interval_holds_0_is_no_loss() -> None:
    found = decomposition(0.09, compute=0.092, exchange=0.008)
    for part in found["parts"].values():
        part["lost_s"]["low"] = -0.001
    told = scaling_findings(analysis(case(decomposition=found)))[0]
    assert told.endswith("speed (no loss that can be told from 0).")


def test_figures_that_bear_little_say_so() -> None:
    noisy, single = ({**case(), "efficiency": estimate(0.9, spread)} for spread in (0.2, None))
    assert "repeat it more often" in scaling_findings(analysis(noisy))[0]
    assert "an anecdote" in scaling_findings(analysis(single))[0]
    assert scaling_findings(analysis(case()))[0].endswith("speed.")


def test_without_any_efficiency_the_reason_is_told() -> None:
    assert scaling_findings(analysis(case(efficiency=None))) == ["demo, weak: no efficiency: no base."]


def test_a_recipe_that_amplifies_rounding_is_told_apart() -> None:
    calm = [losses("torch-ddp", [2.0, 1.0]), losses("tf-mirrored", [2.0, 1.000001])]
    wild = [losses("torch-ddp", [2.0, 1.0], recipe="wild"), losses("tf-mirrored", [2.0, 1.2], recipe="wild")]
    first, second = loss_findings(groups([*calm, *wild]))
    assert first == (
        "demo: losses of 2 runs at equal workers and batch are 0.0 apart after the first step and at worst 1.0e-06 "
        "(relative; tf-mirrored-2, step 2)."
    )
    assert "at worst 2.0e-01" in second
    assert "amplifies rounding, python -m launchers.verify" in second
    assert loss_findings(groups(calm[:1])) == []


def test_what_was_measured_takes_three_sentences() -> None:
    base = case("torch-single", 1, None, scaling="base")
    cpu = {"settings": {"device": "cpu"}, "hardware": {"cpu": "EPYC"}}
    found = measured(analysis(base, case("torch-ddp", 2), failed_runs=[{}, {}]), {"a": Details("a", cpu)})
    assert found[0] == (
        "6 runs of demo with torch-ddp, weak scaling on 2 workers, 3 repetitions each in a shuffled order; a worker is "
        "one core of EPYC."
    )
    assert "no runs without gradient exchange" in found[1]
    assert found[2] == "Of the runs, 2 runs failed."


def test_sections_come_by_recipe_and_weak_scaling_first() -> None:
    cases = [case(recipe=recipe, scaling=way) for recipe in ("b", "a") for way in ("strong", "weak", "base")]
    found = [(recipe, way) for recipe, way, _ in groups_of(analysis(*cases))]
    assert found == [("a", "weak"), ("a", "strong"), ("b", "weak"), ("b", "strong")]


def test_a_terminal_gets_a_handful() -> None:
    assert best_of("abc") == ["a", "b", "c"]
    assert best_of("abcdefgh")[-1] == "and 2 more in the report"
