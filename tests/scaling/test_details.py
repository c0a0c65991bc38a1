import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.details import Details, machines, middle, read_details
from tests.scaling.generated import planned, write_entries, write_run

SUMMARY = {
    "energy_per_sample_j": 0.5,
    "throttled_s": 2.0,
    "devices": [
        {"utilization_percent": {"mean": 80, "peak": 99}, "memory_used_bytes": {"mean": 1, "peak": 5}},
        {"utilization_percent": {"mean": 60, "peak": 99}, "memory_used_bytes": {"mean": 1, "peak": 7}},
        {"utilization_percent": {"mean": None, "peak": None}, "tensor_active_percent": {"mean": None}},
    ],
    "hosts": [{"cpu_percent": {"mean": 30.0, "peak": 90}}],
}


def read(study_dir: Path, run: str = "a") -> Details:
    write_entries(study_dir, [planned(run, "torch-ddp", 2, "weak", wall_s=7.5)])
    return read_details(study_dir)[run]


def with_rows(run_dir: Path, **of_rank: list[dict[str, Any]]) -> None:
    for name, more in of_rank.items():
        path = run_dir / f"timing-{name.removeprefix('rank')}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        merged = [row | extra for row, extra in zip(rows, more, strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in merged))


def test_memory_the_start_and_telemetry_of_a_run(tmp_path: Path) -> None:
    run_dir = write_run(
        tmp_path / "runs" / "a",
        np.array([[3.0, 0.1], [4.0, 0.1]]),
        process_started_unix_s=100.0,
        command=["-m", "x", "a b"],
    )
    with_rows(
        run_dir,
        rank0=[{"t_unix_s": 105.0, "peak_memory_bytes": 10}, {"t_unix_s": 106.0, "peak_memory_bytes": 30}],
        rank1=[{"t_unix_s": 105.5, "peak_memory_bytes": 20}, {"t_unix_s": 106.0, "peak_memory_bytes": None}],
    )
    (run_dir / "summary.json").write_text(json.dumps(SUMMARY))
    found = read(tmp_path)
    assert (found.first_step_s, found.until_first_step_s, found.peak_memory_bytes) == (4.0, 5.5, 30)
    assert (found.gpu_busy_percent, found.tensor_active_percent, found.gpu_memory_bytes) == (70, None, 7)
    assert (found.host_cpu_percent, found.energy_per_sample_j, found.throttled_s) == (30, 0.5, 2.0)
    assert (found.wall_s, found.device, found.on_cpu) == (7.5, "one core of EPYC", True)
    assert found.command == "python -m x 'a b'"


def test_what_the_files_do_not_tell_is_none(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a", np.array([[3.0, 0.1]]))
    (tmp_path / "runs" / "a" / "summary.json").write_text("{cut")
    found = read(tmp_path)
    assert found.first_step_s == 3.0
    for name in (
        "until_first_step_s",
        "peak_memory_bytes",
        "gpu_busy_percent",
        "host_cpu_percent",
        "command",
    ):
        assert getattr(found, name) is None, name
    nothing = read(tmp_path, "never-started")
    assert nothing.segment == {}
    assert nothing.device == "an unknown device"


def test_a_resumed_run_has_no_first_step(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "runs" / "a", np.array([[3.0, 0.1]]))
    path = run_dir / "timing-0.jsonl"
    path.write_text(path.read_text().split("\n", 1)[1])
    assert read(tmp_path).first_step_s is None


def test_the_middle_is_of_those_that_know() -> None:
    known = [Details("a", wall_s=1.0), Details("b"), Details("c", wall_s=5.0), Details("d", wall_s=2.0)]
    assert middle(known, "wall_s") == 2.0
    assert middle([*known, Details("e", wall_s=0.0)], "wall_s") == 1.5
    assert middle(known, "first_step_s") is None


@pytest.mark.parametrize("settings, gpus, device", [
    ({"device": "cuda", "device_name": "NVIDIA H200"}, None, "NVIDIA H200"),
    ({"device": "cuda"}, [{"name": "NVIDIA A100"}], "NVIDIA A100"),
    ({}, None, "an unknown device"),
])  # fmt: skip
def test_a_device_has_a_name(settings: dict, gpus: list | None, device: str) -> None:
    found = Details("a", {"settings": settings, "hardware": {"gpus": gpus}})
    assert (found.device, found.on_cpu) == (device, False)


def test_facts_that_differ_are_all_told() -> None:
    runs = [
        Details(
            host,
            {"hardware": {"host": host, "cpu_cores": 8}, "versions": {"torch": "2.13.0", "horovod": None}},
        )
        for host in ("n1", "n2", "n1")
    ]
    assert machines(runs) == [("host", "n1; n2"), ("CPU cores", "8"), ("torch", "2.13.0")]
