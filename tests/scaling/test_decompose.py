"""Losses planted in one part of the step are found in that part, and the parts add up."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.cases import Case, group
from scaling.decompose import PARTS, decompose
from scaling.records import Record, read_record
from tests.scaling.generated import World, following, read_entries, write_study

IDEAL_S = 0.1


def case_of(study_dir: Path, world: World, *, workers: int = 4, scaling: str = "weak", **more) -> Case:
    write_study(study_dir, world, workers=(workers,), scaling=scaling, **more)
    return group(read_record(study_dir, entry) for entry in read_entries(study_dir))[-1]


def seconds(told: dict, what: str = "seconds") -> dict[str, float]:
    return {name: told["parts"][name][what]["value"] for name in PARTS}


@pytest.mark.parametrize(
    ("planted", "part"),
    [
        (World(straggler_s=((2, 0.03),)), "stragglers"),
        (World(data_s=((1, 0.03),)), "data"),
        (World(exchange_s=lambda workers, ideal_s: 0.03), "exchange"),
        (World(compute_factor=1.3), "compute"),
    ],
    ids=["a straggler", "a slow loader", "a slow link", "shared caches"],
)
@pytest.mark.parametrize("workers", [2, 3, 4])
def test_a_planted_loss_is_found_where_it_was_planted(
    tmp_path: Path, planted: World, part: str, workers: int
) -> None:
    if workers == 2:  # the faster of two ranks is the median: rank 0 and 1 are the only ones there
        planted = replace(planted, straggler_s=((1, 0.03),) if planted.straggler_s else ())
    world = replace(planted, run_noise=0.005, noise=0.001)
    told = decompose(case_of(tmp_path, world, workers=workers, repetitions=5))
    lost = seconds(told, "lost_s")
    assert lost[part] == pytest.approx(0.03, abs=0.003)
    assert [abs(value) < 0.003 for name, value in lost.items() if name != part] == [True] * 4, lost
    interval = told["parts"][part]["lost_s"]
    assert interval["low"] <= 0.03 <= interval["high"]
    assert told["loss_s"]["value"] == pytest.approx(0.03, abs=0.003)
    assert sum(seconds(told, "share").values()) == pytest.approx(1)


def test_strong_scaling_is_against_its_share_of_the_base(tmp_path: Path) -> None:
    world = World(exchange_s=following(lambda workers: workers / 2))
    told = decompose(case_of(tmp_path, world, scaling="strong"))
    assert told["ideal_step_s"]["value"] == pytest.approx(IDEAL_S / 4)
    assert told["step_s"]["value"] == pytest.approx(IDEAL_S / 2)
    assert seconds(told, "lost_s") == pytest.approx(
        {"data": 0, "compute": 0, "stragglers": 0, "exchange": IDEAL_S / 4, "rest": 0}, abs=1e-9
    )


def test_a_straggler_behind_a_slow_loader_costs_nothing_and_the_rest_says_what_overlaps(
    tmp_path: Path,
) -> None:
    """Rank 1 waits 50 ms for data while rank 2 computes 20 ms longer: the step is 150 ms, not 170."""
    told = decompose(case_of(tmp_path, World(data_s=((1, 0.05),), straggler_s=((2, 0.02),))))
    assert seconds(told) == pytest.approx(
        {"data": 0.05, "compute": 0.1, "stragglers": 0, "exchange": 0, "rest": 0}, abs=1e-9
    )
    told = decompose(case_of(tmp_path, World(data_s=((1, 0.02),), straggler_s=((2, 0.05),))))
    assert seconds(told) == pytest.approx(
        {"data": 0.02, "compute": 0.1, "stragglers": 0.05, "exchange": 0, "rest": -0.02}, abs=1e-9
    )
    assert told["parts"]["rest"]["share"]["value"] == pytest.approx(-0.02 / 0.15)


def test_one_process_for_all_workers_has_no_stragglers_to_tell(tmp_path: Path) -> None:
    world = World(straggler_s=((1, 0.03),), exchange_s=lambda workers, ideal_s: 0.02)
    told = decompose(case_of(tmp_path, world, strategy="tf-mirrored"))
    assert told["parts"]["stragglers"] is None
    assert told["parts"]["compute"]["seconds"]["value"] == pytest.approx(IDEAL_S + 0.03)
    assert told["parts"]["exchange"]["seconds"]["value"] == pytest.approx(0.02)


def test_what_cannot_be_told_says_why(tmp_path: Path) -> None:
    told = decompose(case_of(tmp_path / "a", World(), alone=False))
    assert told == {"reason": "found no steady run without gradient exchange, expected at least one"}
    case = case_of(tmp_path / "b", World())
    told = decompose(replace(case, base=()))
    assert told["ideal_step_s"] is told["loss_s"] is told["parts"]["compute"]["lost_s"] is None
    assert told["parts"]["compute"]["seconds"]["value"] == pytest.approx(IDEAL_S)
    case.runs[0].fingerprint["segments"][-1]["oversubscribed"] = True
    assert "oversubscribed" in decompose(case)["reason"]


def with_times(record: Record, step_time_s: np.ndarray, data_time_s: np.ndarray) -> Record:
    return replace(record, step_time_s=step_time_s, data_time_s=data_time_s)


def test_what_the_base_waits_for_data_is_no_loss_of_scaling(any_case: Case) -> None:
    base = tuple(with_times(run, run.step_time_s, run.step_time_s * 0 + 0.02) for run in any_case.base)
    lost = seconds(decompose(replace(any_case, base=base)), "lost_s")
    assert (lost["data"], lost["compute"]) == (pytest.approx(-0.02), pytest.approx(0.02))


@pytest.fixture(scope="module")
def any_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_of(tmp_path_factory.mktemp("study"), World(windows=8), repetitions=2)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), order=st.permutations(range(4)))
def test_parts_add_up_and_the_order_of_ranks_changes_nothing(any_case: Case, seed: int, order: list) -> None:
    rng = np.random.default_rng(seed)

    def shuffled(runs: tuple[Record, ...]) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
        times = [(rng.uniform(0.05, 0.2, (4, 8)), rng.uniform(0, 0.05, (4, 8))) for _ in runs]
        plain = tuple(with_times(run, *time) for run, time in zip(runs, times, strict=True))
        return plain, tuple(with_times(run, run.step_time_s[order], run.data_time_s[order]) for run in plain)

    runs, alone = shuffled(any_case.runs), shuffled(any_case.alone)
    told, again = (decompose(replace(any_case, runs=runs[i], alone=alone[i])) for i in (0, 1))
    assert told == again
    assert sum(seconds(told).values()) == pytest.approx(told["step_s"]["value"])
    assert sum(seconds(told, "lost_s").values()) == pytest.approx(told["loss_s"]["value"])
    assert sum(seconds(told, "share").values()) == pytest.approx(1)
