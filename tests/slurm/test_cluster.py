"""Whether the cluster is one: what the tests of our own scripts take for granted."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.slurm

HELLO = """\
#include <mpi.h>
#include <stdio.h>
int main(int argc, char **argv) {
    int rank, size, length;
    char name[MPI_MAX_PROCESSOR_NAME];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Get_processor_name(name, &length);
    MPI_Allreduce(MPI_IN_PLACE, &length, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    printf("%d of %d on %s, %d\\n", rank, size, name, length);
    return MPI_Finalize();
}
"""


@pytest.mark.parametrize("from_a_job", [False, True])
def test_each_task_has_its_node_and_its_gpu(cluster: Cluster, from_a_job: bool) -> None:
    variables = "$SLURM_PROCID $SLURM_LOCALID $CUDA_VISIBLE_DEVICES $SLURM_GPUS_ON_NODE $ROCR_VISIBLE_DEVICES"
    show = f"echo $(hostname) {variables}"
    shape = ("--nodes=2", "--ntasks-per-node=2", "--gpus-per-task=1")
    if from_a_job:
        job = cluster.submit(*shape, "--wrap", f"srun sh -c '{show}'")
        cluster.wait(job, timeout_s=30)
        printed = cluster.output(job)
    else:
        printed = cluster.run("srun", *shape, "sh", "-c", show, timeout_s=30)
    assert sorted(printed.splitlines()) == [
        "node1 0 0 0 2",
        "node1 1 1 1 2",
        "node2 2 0 0 2",
        "node2 3 1 1 2",
    ]


def test_a_requeued_job_starts_again_within_seconds(cluster: Cluster) -> None:
    script = 'test "$SLURM_RESTART_COUNT" = 1 || { scontrol requeue "$SLURM_JOB_ID"; sleep 60; }'
    job = cluster.submit("--wrap", script)
    assert cluster.wait(job, timeout_s=25)["Restarts"] == "1"


@pytest.mark.horovod  # for its Open MPI
def test_pmix_makes_the_tasks_of_two_nodes_one_world(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "hello.c").write_text(HELLO)
    subprocess.run(["mpicc", "-o", "hello", "hello.c"], cwd=tmp_path, check=True)
    layout = ("--nodes=2", "--ntasks-per-node=2")
    printed = cluster.run("srun", "--mpi=pmix", *layout, tmp_path / "hello", timeout_s=60)
    expected = [f"{rank} of 4 on node{1 + rank // 2}, {4 * len('node1')}" for rank in range(4)]
    assert sorted(printed.splitlines()) == expected


def test_nothing_is_left_where_the_tests_were_killed() -> None:
    command = [sys.executable, "-m", "tests.slurm.cluster", "1"]
    with contextlib.ExitStack() as ended:
        owner = ended.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        ended.callback(owner.kill)
        slurm_conf = Path(re.search(r"SLURM_CONF=(\S+)", owner.stdout.readline())[1])
        client = {**os.environ, "SLURM_CONF": str(slurm_conf)}
        of_a_person = ended.enter_context(subprocess.Popen(["sleep", "600"], env=client))
        ended.callback(of_a_person.kill)
        sbatch = ["sbatch", "--quiet", "--output=/dev/null", "--wrap", "srun tail -f /dev/null"]
        subprocess.run(sbatch, env=client, check=True, timeout=20)
        within(20, lambda: {"slurmctld", "slurmd", "munged", "tail"} <= names_of_processes(slurm_conf))
        owner.kill()
        within(10, lambda: not slurm_conf.parent.exists())
        assert names_of_processes(slurm_conf) == {"sleep"}
        assert of_a_person.poll() is None


def test_a_start_that_fails_says_why_and_leaves_nothing() -> None:
    cluster = Cluster(nodes=1, cpus=-1)
    with pytest.raises(RuntimeError) as caught, cluster:
        pass
    why, *logs = str(caught.value).splitlines()
    assert why == "Slurm did not start: slurmctld does not listen: slurmctld ended"
    assert "slurmctld: error: CPUs value (-1) is less than zero" in logs
    assert not cluster.directory.exists()
    assert not names_of_processes(cluster.slurm_conf)


def names_of_processes(slurm_conf: Path) -> set[str]:
    """Everybody who knows of this cluster."""
    names = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("SLURM_CONF") == str(slurm_conf):
                names.add(process.name())
    return names


def within(limit_s: float, is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.1)
