"""A scaling study on a real Slurm of four nodes: a job a node count, submitted together, and collected."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(280)]
ROOT = Path(__file__).parents[2]
FILE = ROOT / "slurm" / "scaling_study.sbatch"
ENVIRONMENT = {
    "TRIMARAN_HOME": str(ROOT),
    "PYTHON": sys.executable,
    "STRATEGIES": "torch-ddp",
    "STUDY": "mine",
}
WHAT = (
    "--recipes",
    "study-resnet",
    "--repetitions",
    "1",
    "--set",
    "steps=24",
    "model.width=4",
    "model.depth=10",
)


@pytest.fixture(scope="module")
def four_nodes() -> Iterator[Cluster]:
    with Cluster(nodes=4) as running:
        yield running


def test_a_study_over_1_2_and_4_nodes_is_submitted_and_collected(four_nodes: Cluster, tmp_path: Path) -> None:
    jobs = []
    for nodes in (1, 2, 4):
        size = (f"--nodes={nodes}", "--ntasks-per-node=1", "--exclusive")
        environment = {**ENVIRONMENT, "NODES": str(nodes)}
        jobs.append(four_nodes.submit(*size, FILE, *WHAT, env=environment, cwd=tmp_path))
    for job in jobs:
        four_nodes.wait(job, timeout_s=200)
    sizes = ("--nodes", "1,2,4", "--workers", "1", "--strategies", "torch-ddp")
    collected = subprocess.run(
        [sys.executable, "-m", "scaling.study", "--name", "mine", *sizes, *WHAT, "--collect"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert collected.returncode == 0, collected.stdout + collected.stderr
    study = json.loads((tmp_path / "studies" / "mine" / "study.json").read_text())
    done = {
        (run["strategy"], run["workers"], run["nodes"], run["exchange"]): run["state"]
        for run in study["runs"]
    }
    assert done == {
        ("torch-single", 1, 1, True): "completed",
        **{("torch-ddp", nodes, nodes, True): "completed" for nodes in (1, 2, 4)},
        **{("torch-ddp", nodes, nodes, False): "completed" for nodes in (2, 4)},
    }
    for nodes in (1, 2, 4):
        run_json = json.loads(
            next((tmp_path / "studies" / "mine" / "runs").glob(f"*ddp-{nodes}*-r1/run.json")).read_text()
        )
        assert run_json["segments"][0]["launcher"] == "srun"
        assert run_json["workers"] == nodes
    samplers = {
        path.name for path in (tmp_path / "studies" / "mine" / "runs").glob("*ddp-4-4n-r1/telemetry-*")
    }
    assert samplers == {f"telemetry-node{number}.jsonl" for number in (1, 2, 3, 4)}
    page = (tmp_path / "studies" / "mine" / "report.html").read_text()
    assert "4 nodes" in page
