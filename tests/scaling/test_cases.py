"""Repetitions come together, and each case finds the base that it is to be measured against."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scaling.cases import Case, group, usable
from scaling.records import Record, read_record
from tests.scaling.generated import World, planned, read_entries, write_run, write_study


def records(study_dir: Path) -> list[Record]:
    return [read_record(study_dir, entry) for entry in read_entries(study_dir)]


def sizes(cases: tuple[Case, ...]) -> list[tuple]:
    return [(case.scaling, case.workers, len(case.runs), len(case.alone), len(case.base)) for case in cases]


def test_repetitions_are_one_case_with_and_without_exchange(tmp_path: Path) -> None:
    found = group(records(write_study(tmp_path, World(), workers=(2, 4), repetitions=3)))
    assert sizes(found) == [("base", 1, 3, 0, 0), ("strong", 2, 3, 3, 3), ("strong", 4, 3, 3, 3)]
    assert found[0].name == "digits-resnet18 base torch-single 1, batch 96"


@pytest.mark.parametrize(("scaling", "base_batch"), [("weak", 48), ("strong", 96)])
def test_the_base_has_the_workers_own_batch_or_all_of_it(
    tmp_path: Path, scaling: str, base_batch: int
) -> None:
    times = np.full((1, 8), 0.1)
    found = []
    for strategy, batch in (
        ("torch-single", 24),
        ("torch-single", 48),
        ("torch-single", 96),
        ("tf-single", base_batch),
    ):
        run_id = f"{strategy}-{batch}"
        write_run(tmp_path / "runs" / run_id, times, batch=batch)
        found.append(read_record(tmp_path, planned(run_id, strategy, 1, "base")))
    write_run(tmp_path / "runs" / "two", np.full((2, 8), 0.1), batch=96)
    found.append(read_record(tmp_path, planned("two", "torch-ddp", 2, scaling)))
    case = group(found)[-1]
    assert [run.id for run in case.base] == [f"torch-single-{base_batch}"]
    assert case.why_not_compared is None
    lonely = group(found[3:])[-1]
    assert lonely.why_not_compared == f"no base: found no torch-single run with a batch of {base_batch}"


def test_a_failed_repetition_stays_in_its_case_and_out_of_the_figures(tmp_path: Path) -> None:
    found = records(write_study(tmp_path, World(), workers=(2,), repetitions=3))
    found[1] = replace(found[1], state="failed", reason="exit code 1")
    (_, case) = group(found)
    assert (len(case.runs), len(usable(case.runs))) == (3, 2)
    failed = [replace(run, state="failed") for run in found]
    assert group(failed)[1].why_not_compared == "no run reached a steady step time"
    no_base = [replace(run, state="failed") if run.scaling == "base" else run for run in found]
    assert group(no_base)[1].why_not_compared == "no base: none of its runs reached a steady step time"


def test_a_speed_up_is_a_ratio_of_medians(tmp_path: Path) -> None:
    found = records(
        write_study(tmp_path, World(run_noise=0.3, noise=0.1, seed=5), workers=(4,), repetitions=3)
    )
    _, case = group(found)
    medians = [np.median([run.step_s for run in runs]) for runs in (case.base, case.runs)]
    assert case.sampled_speed_up is not None
    assert case.sampled_speed_up[0] == pytest.approx(medians[0] / medians[1])
