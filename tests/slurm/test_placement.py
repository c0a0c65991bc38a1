"""Which worker and which GPU a task of a real Slurm takes for its own. The GPUs are device files that do nothing."""

import json
import sys
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).parents[2]
PROBE = """
import json, os, sys
from functools import partial
from pathlib import Path
from distributed import devices, topology
find = partial(devices.visible_gpus, devices=Path(sys.argv[2]))
devices.visible_gpus = topology.visible_gpus = lambda environment: find(environment)
start = {"torch-ddp": topology.of_torch, "torch-horovod": topology.of_horovod}.get(sys.argv[1])
world = start(sys.argv[1]) if start else topology.of_mirrored(None)
seen = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
count = 1 if start else len(seen)
gpus = seen[world.gpu_index : world.gpu_index + count]
print(json.dumps([world.rank, os.uname().nodename, world.workers, list(world.worker_ranks), gpus]))
"""
"""A script's first lines; the device files of the cluster stand for those in /dev."""


def placed(cluster: Cluster, strategy: str, *shape: str) -> list[list]:
    """Rank, host, number of workers, own workers and own GPUs of each task."""
    command = (sys.executable, "-c", PROBE, strategy, str(cluster.directory / "dev"))
    printed = cluster.run("srun", "--nodes=2", *shape, *command, env={"PYTHONPATH": str(ROOT)}, timeout_s=60)
    return sorted(map(json.loads, printed.splitlines()))


@pytest.mark.parametrize("strategy", ["torch-ddp", "torch-horovod"])
@pytest.mark.parametrize("request_", ["--gpus-per-node=2", "--gpus-per-task=1"])
def test_each_worker_has_a_gpu_of_its_own(cluster: Cluster, strategy: str, request_: str) -> None:
    assert placed(cluster, strategy, "--ntasks-per-node=2", request_) == [
        [0, "node1", 4, [0], ["0"]],
        [1, "node1", 4, [1], ["1"]],
        [2, "node2", 4, [2], ["0"]],
        [3, "node2", 4, [3], ["1"]],
    ]


def test_a_mirrored_task_drives_all_gpus_of_its_node(cluster: Cluster) -> None:
    assert placed(cluster, "tf-mirrored", "--ntasks-per-node=1", "--gpus-per-node=2") == [
        [0, "node1", 4, [0, 1], ["0", "1"]],
        [1, "node2", 4, [2, 3], ["0", "1"]],
    ]


@pytest.mark.parametrize(
    ("strategy", "shape", "line"),
    [
        (
            "torch-ddp",
            ("--ntasks-per-node=2", "--gpus-per-node=1"),
            "--workers: found 2 on this node, but 1 GPU",
        ),
        ("tf-mirrored", ("--ntasks-per-node=2", "--gpus-per-node=2"), "each of which would drive the same 2"),
    ],
)
def test_two_tasks_on_one_gpu_are_refused(
    cluster: Cluster, strategy: str, shape: tuple[str, ...], line: str
) -> None:
    with pytest.raises(RuntimeError, match="UsageError") as caught:
        placed(cluster, strategy, *shape)
    assert line in str(caught.value)
