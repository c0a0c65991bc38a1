"""Each launcher's own part of a command: the words before the interpreter that runs a module in each worker."""

import os
import secrets
import shutil
import socket
import subprocess
from functools import cache
from pathlib import Path

from distributed.devices import visible_gpus
from distributed.slurm_step import FIRST_PORT, LAST_PORT, in_step
from launchers.environment import training_environment
from launchers.nodes import ONE_NODE, Nodes
from training.problems import UsageError
from training.process import LAUNCHED_BY
from training.restart import RESTART

NUMA_NODES = Path("/sys/devices/system/node")
SETTINGS = ("HOROVOD_", "NCCL_", "GLOO_", "UCX_", RESTART)
"""How the variables begin by which a user tunes what Horovod uses; mpirun leaves them behind on this node. And the one
by which launchers.train says that it starts again."""


def launch_prefix(
    launcher: str,
    workers: int,
    strategy: str,
    python: tuple[str, ...],
    nodes: Nodes = ONE_NODE,
    max_restarts: int = 0,
) -> list[str]:
    """The words up to the interpreter, with it: what follows is `-m MODULE` and its arguments."""
    match launcher:
        case "torchrun":
            return [*python, "-m", "torch.distributed.run", *torchrun_flags(workers, nodes, max_restarts)]
        case "mpirun":
            return ["mpirun", "-np", str(workers), *mpirun_flags(strategy, workers, nodes), *python]
        case "horovodrun":
            horovodrun = [*python[:-1], str(Path(python[-1]).with_name("horovodrun"))]
            return [*horovodrun, "--gloo", "-np", str(workers), *horovodrun_hosts(workers, nodes), *python]
        case "srun":
            return ["srun", *srun_flags(strategy, workers, nodes), *python]
        case _:
            return list(python)


def torchrun_flags(workers: int, nodes: Nodes, max_restarts: int = 0) -> list[str]:
    """One process a worker. On one node they meet on loopback; --standalone would listen on every interface."""
    flags = [f"--nproc-per-node={workers // nodes.count}", f"--nnodes={nodes.count}"]
    if nodes.count > 1:
        flags += [f"--node-rank={nodes.rank}", f"--master-addr={nodes.hosts[0]}"]
        port = nodes.meeting_port
    else:
        flags.append("--master-addr=127.0.0.1")
        port = nodes.port or free_port()
    flags += [f"--max-restarts={max_restarts}"] if max_restarts else []
    return [*flags, f"--master-port={port}", *numa_binding()]


def numa_binding() -> list[str]:
    """Keep each worker on the cores beside its GPU, where there are several kinds of beside (torch 2.9 and later)."""
    several = len(list(NUMA_NODES.glob("node[0-9]*"))) > 1
    return ["--numa-binding=node"] if visible_gpus() and several and shutil.which("numactl") else []


def mpirun_flags(strategy: str, workers: int, nodes: Nodes = ONE_NODE) -> list[str]:
    """What mpirun needs to be told: where, and not to tie a worker with all its threads to one core."""
    if not is_open_mpi():
        if nodes.hosts:
            return ["-hosts", ",".join(nodes.hosts), "-ppn", str(workers // nodes.count)]
        return ["-f", str(nodes.hostfile)] if nodes.hostfile else []
    flags = ["--bind-to", "none"]
    if os.geteuid() == 0:
        flags.append("--allow-run-as-root")
    if nodes.are_elsewhere:
        return [*flags, *mpirun_hosts(workers, nodes), *exported(strategy)]
    if not visible_gpus():
        flags.append("--oversubscribe")  # CPU workers may outnumber the cores; run.json marks it
    loopback = [word for layer in ("oob", "btl") for word in ("--mca", f"{layer}_tcp_if_include", "lo")]
    return [*flags, *loopback]


def mpirun_hosts(workers: int, nodes: Nodes) -> list[str]:
    """Open MPI's words for the hosts; inside a Slurm job it knows them, and only has to be told how many on each."""
    if nodes.hostfile is not None:
        return ["--hostfile", str(nodes.hostfile)]
    if nodes.hosts:
        return ["--host", nodes.host_slots(workers)]
    return ["--map-by", f"ppr:{workers // nodes.count}:node"]


def exported(strategy: str) -> list[str]:
    """The variables that Open MPI is to take along to other nodes."""
    mine = sorted(name for name in os.environ if name.startswith(SETTINGS))
    names = dict.fromkeys((*training_environment(strategy), LAUNCHED_BY, *mine))
    return [word for name in names for word in ("-x", name)]


def horovodrun_hosts(workers: int, nodes: Nodes) -> list[str]:
    """horovodrun's words for the hosts."""
    if nodes.hostfile is not None:
        return ["--hostfile", str(nodes.hostfile)]
    if nodes.hosts:
        return ["-H", nodes.host_slots(workers)]
    return ["--network-interfaces", "lo"]


def srun_flags(strategy: str, workers: int, nodes: Nodes) -> list[str]:
    """One task a worker, or one a node for tf-mirrored on GPUs; Slurm binds them as its site has it."""
    tasks = nodes.count if strategy == "tf-mirrored" and gpus_in_job() else workers
    flags = [f"--nodes={nodes.count}", f"--ntasks={tasks}", f"--ntasks-per-node={tasks // nodes.count}"]
    flags += ["--distribution=block", "--kill-on-bad-exit=1"]
    if cores := os.environ.get("SLURM_CPUS_PER_TASK"):  # since Slurm 22.05 a step does not inherit it
        flags.append(f"--cpus-per-task={cores}")
    if strategy.endswith("-horovod"):
        flags.append(f"--mpi={os.environ.get('SLURM_MPI_TYPE', 'pmix')}")
    if in_step(os.environ):  # an interactive one, which would keep its cores from the new one
        flags.append("--overlap")
    return flags


def gpus_in_job() -> bool:
    """Whether the nodes have GPUs for this job: as Slurm says where it does, else as this node has them."""
    named = [os.environ[name] for name in ("SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE") if name in os.environ]
    return any(text not in ("", "0") for text in named) or bool(visible_gpus())


@cache
def is_open_mpi() -> bool:
    """Whether the mpirun on PATH is Open MPI's, whose flags others do not know."""
    try:
        return "Open MPI" in subprocess.run(["mpirun", "--version"], capture_output=True, text=True).stdout
    except OSError:
        return True


def free_port() -> int:
    """A free TCP port on loopback, outside the ephemeral range; by chance, so that two at a time seldom meet."""
    span = LAST_PORT - FIRST_PORT
    start = secrets.randbelow(span)
    for offset in range(span):
        port = FIRST_PORT + (start + offset) % span
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise UsageError(f"no free port from {FIRST_PORT} to {LAST_PORT} on 127.0.0.1; end what listens there")
