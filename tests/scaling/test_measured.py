"""measured.json: what it may leave out, and one line for each way it can be wrong."""

from pathlib import Path

import pytest

from scaling.links import Link
from scaling.measured import measured
from tests.scaling.measured_cases import case, write_study
from training.problems import UsageError


def test_a_case_is_read_whole(tmp_path: Path) -> None:
    links = {"in_node": {"latency_s": 1e-5, "bytes_per_s": 1e10}, "between_nodes": None}
    full = case(
        links=links, compute_workers=2, accumulation=3, update_s=0.01, jitter_s=0.002, workers_per_node=4
    )
    (found,) = measured(write_study(tmp_path, full)).cases
    assert (found.recipe.model.family, found.strategy, found.global_batch) == ("gpt", "torch-ddp", 24)
    assert (found.compute_workers, found.accumulation, found.workers_per_node) == (2, 3, 4)
    assert (found.update_s, found.jitter_s) == (0.01, 0.002)
    assert (found.in_node, found.between_nodes) == (Link(1e-5, 1e10), None)
    assert list(found.steps_s) == [2, 3, 4]


def test_what_may_be_left_out_has_its_meaning(tmp_path: Path) -> None:
    (found,) = measured(write_study(tmp_path, case(steps="left out", links="left out"))).cases
    assert (found.compute_workers, found.accumulation, found.steps_s) == (1, 1, {})
    assert (found.update_s, found.jitter_s, found.workers_per_node, found.in_node) == (None,) * 4


def test_shares_of_weak_and_strong_scaling(tmp_path: Path) -> None:
    weak, strong = (case(scaling=kind, compute_workers=2) for kind in ("weak", "strong"))
    first, second = measured(write_study(tmp_path, weak, strong)).cases
    assert [(first.share(n), first.samples(n)) for n in (1, 2, 8)] == [(1, 12), (1, 24), (1, 96)]
    assert [(second.share(n), second.samples(n)) for n in (1, 2, 8)] == [(2, 24), (1, 24), (0.25, 24)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compute_s": []}, r"cases\[0\]\.compute_s: found \[\], expected a list of seconds above 0"),
        ({"compute_s": [0.1, 0]}, r"compute_s: found \[0.1, 0\]"),
        ({"compute_s": [True]}, r"compute_s: found \[True\]"),
        ({"compute_s": [float("nan")]}, "compute_s: found"),
        ({"strategy": "torch-single"}, "strategy: found 'torch-single', expected one of: torch-ddp"),
        ({"scaling": "both"}, "scaling: found 'both', expected one of: weak, strong"),
        ({"global_batch": 24.0}, "global_batch: found 24.0, expected a whole number"),
        ({"global_batch": "left out"}, "global_batch: found None"),
        ({"compute_workers": 0}, "compute_workers: found 0"),
        ({"workers_per_node": -1}, "workers_per_node: found -1"),
        ({"recipe": 3}, "recipe: found 3, expected a name"),
        ({"recipe_values": {"seed": 1}}, r"recipe_values: "),
        ({"recipe_values": None}, "recipe_values: found None"),
        ({"steps": {"two": [1]}}, "steps: found"),
        ({"steps": {"2": [None]}}, r"steps\.2: found \[None\]"),
        ({"links": []}, None),
        ({"links": [1]}, r"links: found \[1\]"),
        ({"links": {"in_node": {"latency_s": 0}}}, r"links\.in_node: found"),
        ({"links": {"between_nodes": {"latency_s": -1, "bytes_per_s": 1}}}, r"links\.between_nodes: found"),
        ({"update_s": 1.0}, "update_s: found 1.0, expected less than every compute_s"),
        ({"jitter_s": "much"}, "jitter_s: found 'much'"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, change: dict, message: str | None) -> None:
    study = write_study(tmp_path, case(**change))
    if message is None:  # empty is as good as null
        assert measured(study).cases[0].in_node is None
        return
    with pytest.raises(UsageError, match=message) as raised:
        measured(study)
    assert "\n" not in str(raised.value)
    assert str(study / "measured.json") in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file; expected the directory of a study"),
        ("{", "cannot be read as JSON"),
        ("[]", "format: found 'list', expected 1"),
        ('{"format": 2}', "format: found 2, expected 1"),
        ('{"format": 1, "cases": []}', r"cases: found \[\], expected a list of at least one case"),
        ('{"format": 1, "cases": [7]}', r"cases\[0\]: found 7, expected an object"),
    ],
)
def test_a_file_that_is_none_of_ours(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "measured.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        measured(tmp_path)
