"""Throughput, speed-up and efficiency of studies whose truth is known."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.cases import group
from scaling.efficiency import PEAK_FLOPS, efficiency, peak_flops
from scaling.records import Record, read_record
from tests.scaling.generated import RUN_JSON, World, following, planned, read_entries, write_study


def records(study_dir: Path) -> list[Record]:
    return [read_record(study_dir, entry) for entry in read_entries(study_dir)]


@settings(max_examples=15, deadline=None)
@given(
    scaling=st.sampled_from(["weak", "strong"]),
    workers=st.integers(2, 6),
    base_s=st.floats(1e-3, 10),
    batch=st.integers(60, 240),
)
def test_an_ideal_run_has_an_efficiency_of_one(
    tmp_path_factory: pytest.TempPathFactory, scaling: str, workers: int, base_s: float, batch: int
) -> None:
    world = World(base_s=base_s, windows=8)
    study_dir = tmp_path_factory.mktemp("study")
    write_study(
        study_dir, world, scaling=scaling, workers=(workers,), repetitions=2, alone=False, batch=batch
    )
    _, case = group(records(study_dir))
    told = efficiency(case)
    assert told["efficiency"]["value"] == pytest.approx(1)
    assert told["speed_up"]["low"] == told["speed_up"]["high"] == pytest.approx(workers)
    samples = batch * workers if scaling == "weak" else batch
    step_s = base_s if scaling == "weak" else base_s / workers
    assert told["samples_per_s"]["value"] == pytest.approx(samples / step_s)


@pytest.mark.parametrize("scaling", ["weak", "strong"])
def test_a_planted_efficiency_is_found_within_its_interval(tmp_path: Path, scaling: str) -> None:
    world = World(exchange_s=following(lambda workers: 0.8 * workers), run_noise=0.01, noise=0.02, seed=1)
    *_, case = group(records(write_study(tmp_path, world, scaling=scaling, workers=(4,), repetitions=6)))
    told = efficiency(case)["efficiency"]
    assert told["low"] <= 0.8 <= told["high"]
    assert told["high"] - told["low"] < 0.06
    assert told["repetitions"] == 6


def test_tokens_are_all_workers_at_the_pace_of_the_slowest(tmp_path: Path) -> None:
    found = records(write_study(tmp_path, World(), scaling="weak", repetitions=2))
    *_, case = group([replace(record, tokens_per_step=4000.0) for record in found])
    assert efficiency(case)["tokens_per_s"]["value"] == pytest.approx(4000 / 0.1)
    assert efficiency(group(found)[-1])["tokens_per_s"] is None


def test_one_run_has_no_interval(tmp_path: Path) -> None:
    *_, case = group(records(write_study(tmp_path, World(noise=0.02), repetitions=1)))
    told = efficiency(case)
    assert told["speed_up"]["value"] == pytest.approx(8, rel=0.05)
    assert told["speed_up"]["low"] is told["speed_up"]["high"] is None
    assert told["attainable_confidence"] == 0


def test_oversubscribed_runs_have_a_throughput_and_no_speed_up(tmp_path: Path) -> None:
    found = records(write_study(tmp_path, World(), workers=(2,)))
    for record in found[-2:]:
        record.fingerprint["segments"][-1]["oversubscribed"] = True
    *_, case = group(found)
    told = efficiency(case)
    assert told["speed_up"] is told["efficiency"] is None
    assert told["samples_per_s"] is not None
    assert "oversubscribed" in told["reason"]


def on_a(device: str, record: Record, **settings: object) -> Record:
    fingerprint = copy.deepcopy(RUN_JSON)
    fingerprint["segments"][0]["settings"] |= {"device": "cuda", "device_name": device, **settings}
    return replace(record, fingerprint=fingerprint)


def test_utilisation_is_against_the_dense_peak_in_the_runs_precision(tmp_path: Path) -> None:
    found = records(write_study(tmp_path, World(base_s=0.096), repetitions=1))
    assert peak_flops(found[0]) is None, "a CPU has no peak in the table"
    assert peak_flops(on_a("NVIDIA H100 80GB HBM3 MIG 1g.10gb", found[0])) is None
    assert peak_flops(on_a("NVIDIA H100 80GB HBM3", found[0])) == 67e12
    assert peak_flops(on_a("NVIDIA H100 80GB HBM3", found[0], tf32=True)) == 494.7e12
    *_, case = group([on_a("Tesla T4", record) for record in found])
    # 96 samples of 1 GFLOP in 96 ms / 8 on 8 devices: 1 TFLOP/s each.
    assert efficiency(case)["mfu"]["value"] == pytest.approx(1e12 / PEAK_FLOPS["Tesla T4"]["float32"])


def test_energy_is_the_median_of_the_runs_that_know_it(tmp_path: Path) -> None:
    entries = [planned(f"{n}", "torch-single", 1, "base", n) for n in range(4)]
    write_study(tmp_path, World(), workers=(2,), repetitions=1, alone=False)
    base = read_record(tmp_path, read_entries(tmp_path)[0])
    energies = [{"energy_per_sample_j": value} for value in (3.0, 1.0, 2.0, None)]
    runs = [
        replace(base, id=entry["id"], summary=summary)
        for entry, summary in zip(entries, energies, strict=True)
    ]
    (case,) = group(runs)
    told = efficiency(case)["energy_per_sample_j"]
    assert (told["value"], told["low"], told["high"], told["repetitions"]) == (2, 1, 3, 3)
    (unknown,) = group(runs[3:])
    assert efficiency(unknown)["energy_per_sample_j"] is None


def test_peaks_are_dense_ones() -> None:
    """Data sheets put the sparse figure first, twice as high; no device here reaches 1 PFLOP/s without sparsity."""
    assert max(peak for peaks in PEAK_FLOPS.values() for peak in peaks.values()) < 1e15
    assert all(np.diff([p["float32"], p["fp16"]]) > 0 for p in PEAK_FLOPS.values())
