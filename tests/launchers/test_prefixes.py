import os
from pathlib import Path

import pytest

from launchers import prefixes
from launchers.nodes import Nodes
from launchers.prefixes import launch_prefix

HOSTS = Nodes(2, ("a", "b"), rank=1, port=20001)
PYTHON = ("/opt/bin/python",)


@pytest.fixture(autouse=True)
def plain(monkeypatch) -> None:
    """No Slurm, no GPU, no root, Open MPI."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", *prefixes.SETTINGS))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(prefixes, "visible_gpus", lambda: 0)
    monkeypatch.setattr(prefixes, "is_open_mpi", lambda: True)


def test_srun_starts_a_task_a_worker_in_blocks_and_ends_all_when_one_fails() -> None:
    flags = ["--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--distribution=block", "--kill-on-bad-exit=1"]
    for strategy in ("torch-ddp", "tf-mirrored"):
        assert launch_prefix("srun", 8, strategy, PYTHON, Nodes(2)) == ["srun", *flags, *PYTHON]
    for strategy in ("torch-horovod", "tf-horovod"):
        assert launch_prefix("srun", 8, strategy, PYTHON, Nodes(2)) == ["srun", *flags, "--mpi=pmix", *PYTHON]


def test_srun_is_told_what_a_step_does_not_inherit(monkeypatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    monkeypatch.setenv("SLURM_MPI_TYPE", "pmi2")
    assert prefixes.srun_flags("tf-horovod", 2, Nodes())[-2:] == ["--cpus-per-task=4", "--mpi=pmi2"]
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert prefixes.srun_flags("torch-ddp", 2, Nodes())[-1] == "--overlap"
    monkeypatch.setenv("SLURM_STEP_ID", "4294967291")  # the batch script
    assert prefixes.srun_flags("torch-ddp", 2, Nodes())[-1] == "--cpus-per-task=4"


@pytest.mark.parametrize("variable", ["SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE"])
def test_a_mirrored_task_drives_all_gpus_of_its_node(variable: str, monkeypatch) -> None:
    monkeypatch.setenv(variable, "0")
    assert "--ntasks=8" in prefixes.srun_flags("tf-mirrored", 8, Nodes(2))
    monkeypatch.setenv(variable, "4")
    assert prefixes.srun_flags("tf-mirrored", 8, Nodes(2))[:3] == [
        "--nodes=2",
        "--ntasks=2",
        "--ntasks-per-node=1",
    ]
    assert "--ntasks=8" in prefixes.srun_flags("torch-ddp", 8, Nodes(2))


def test_torchrun_on_named_hosts_meets_at_the_first() -> None:
    words = ["--nproc-per-node=4", "--nnodes=2", "--node-rank=1", "--master-addr=a", "--master-port=20001"]
    start = [*PYTHON, "-m", "torch.distributed.run"]
    assert launch_prefix("torchrun", 8, "torch-ddp", PYTHON, HOSTS) == [*start, *words]


def test_workers_stay_beside_their_gpus_where_torchrun_can_see_to_it(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(prefixes.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(prefixes, "NUMA_NODES", tmp_path)
    monkeypatch.setattr(prefixes, "visible_gpus", lambda: 8)
    (tmp_path / "node0").mkdir()
    assert prefixes.numa_binding() == []
    (tmp_path / "node1").mkdir()
    assert prefixes.torchrun_flags(8, Nodes())[-1] == "--numa-binding=node"
    monkeypatch.setattr(prefixes.shutil, "which", lambda name: None)
    assert prefixes.numa_binding() == []


def test_mpirun_takes_hosts_by_name_or_from_its_slurm_job(monkeypatch) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    start = ["mpirun", "-np", "8", "--bind-to", "none"]
    taken = ["-x", "NCCL_DEBUG"]
    found = launch_prefix("mpirun", 8, "torch-horovod", PYTHON, HOSTS)
    assert found[:7] == [*start, "--host", "a:4,b:4"]
    assert found[-3:] == [*taken, *PYTHON]
    found = launch_prefix("mpirun", 8, "torch-horovod", PYTHON, Nodes(2))
    assert found[:7] == [*start, "--map-by", "ppr:4:node"]
    assert "lo" not in found
    monkeypatch.setattr(prefixes, "is_open_mpi", lambda: False)
    found = launch_prefix("mpirun", 8, "torch-horovod", PYTHON, HOSTS)
    assert found == ["mpirun", "-np", "8", "-hosts", "a,b", "-ppn", "4", *PYTHON]


def test_horovodrun_is_the_one_beside_its_python() -> None:
    image = ("apptainer", "exec", "x.sif", "python")
    found = launch_prefix("horovodrun", 8, "tf-horovod", image, HOSTS)
    assert found == [*image[:-1], "horovodrun", "--gloo", "-np", "8", "-H", "a:4,b:4", *image]
