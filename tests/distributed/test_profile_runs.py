"""--profile on real runs, and two faults planted in one: a late peer and slow data. Most runs are those of conftest."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from telemetry.run_log import read_rows
from tests.planting import planted, slow_data, slow_exchange
from training.trace import INPUT, PARTS, PLACE, STEP

HERE = Path(__file__).parent
PROCESSES = {"torch-single": 1, "tf-single": 1, "tf-mirrored": 1}
EXCHANGE = {"torch-ddp": "gloo:all_reduce", "tf-mirrored": "CollectiveReduceV2"}
DELAY_S = 0.06
PLANTED = f"""
{slow_data(DELAY_S)}
{slow_exchange(DELAY_S, where='RANK == "1"')}
PLANTS = {{"training.feed": slow_data, "torch.nn.parallel": slow_exchange}} if RANK else {{}}
"""


def marks(strategy: str) -> list:
    runs = pytest.mark.runs(f"{strategy} profiled")
    return [runs, pytest.mark.horovod] if strategy.endswith("-horovod") else [runs]


NAMES = ("torch-single", "torch-ddp", "torch-horovod", "tf-single", "tf-mirrored", "tf-horovod")


@pytest.mark.parametrize("strategy", [pytest.param(name, marks=marks(name), id=name) for name in NAMES])
def test_five_steps_of_every_rank_are_traced_and_divided(strategy: str, done) -> None:
    (run,) = done
    assert run.code == 0, run.errors
    folder, processes = run.run_dir / "profile", PROCESSES.get(strategy, 2)
    for rank in range(processes):
        with gzip.open(folder / f"rank-{rank}.trace.json.gz") as file:
            names = [row["name"] for row in json.load(file)["traceEvents"]]
        assert [names.count(mark) for mark in (INPUT, PLACE, STEP)] == [5, 5, 5]
        timing = read_rows(run.run_dir / f"timing-{rank}.jsonl")
        assert [row["step"] for row in timing if row.get("profiled")] == [12, 15]
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["first_step"], summary["last_step"], summary["missing_ranks"]) == (11, 15, [])
    assert [device["rank"] for device in summary["devices"]] == list(range(processes))
    for device in summary["devices"]:
        assert [row["step"] for row in device["steps"]] == [11, 12, 13, 14, 15]
        for row in device["steps"]:
            assert sum(row[part] for part in PARTS) == pytest.approx(row["step_time_s"])
        assert device["compute_s"] > 0
        assert (device["communication_s"] > 0) == (not strategy.endswith("-single"))
        computing = [op["share"] for op in device["operations"] if op["kind"] == "compute"]
        assert 0 < sum(computing) < 1.01
        kinds = {operation["name"]: operation["kind"] for operation in device["operations"]}
        exchange = EXCHANGE.get(strategy, "Horovod ALLREDUCE")
        assert (kinds.get(exchange) == "communication") == (not strategy.endswith("-single"))
    for line in (folder / "summary.txt").read_text().splitlines():
        assert line in run.errors
    assert "USDT" not in run.errors


def test_a_late_peer_is_exposed_communication_and_slow_data_is_input_wait(tmp_path: Path) -> None:
    options = ("--recipe", str(HERE / "tiny-gpt.toml"), "--run-dir", "run", "--profile", "--set", "steps=18")
    ended = subprocess.run(
        [sys.executable, "-m", "launchers.train", "torch-ddp", "--workers", "2", *options],
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **planted(tmp_path, PLANTED)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    early, late = json.loads((tmp_path / "run" / "profile" / "summary.json").read_text())["devices"]
    for device in (early, late):
        assert device["input_wait_s"] > 0.95 * DELAY_S
        assert device["compute_s"] < 0.5 * device["step_time_s"]
    assert early["exposed_communication_s"] > 0.75 * DELAY_S
    assert early["rest_s"] < 0.5 * DELAY_S
    assert late["exposed_communication_s"] < 0.5 * DELAY_S
    assert late["rest_s"] > 0.75 * DELAY_S  # it sleeps before it sends
