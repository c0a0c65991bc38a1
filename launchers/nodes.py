"""Where the workers of a run are: on this node, on hosts that are named, or where Slurm puts them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distributed.devices import check_devices, visible_gpus
from distributed.network import check_port, interface_variables
from distributed.topology import tf_config
from training.problems import UsageError

PORT = 20480
"""Where nodes meet that cannot ask each other for a free port; outside the ephemeral range."""


@dataclass(frozen=True)
class Nodes:
    """`count` nodes. For torchrun and TensorFlow on named `hosts` each of them gets a command of its own.

    rank: which of them this is. port: where they meet (on one node: any that is free).
    """

    count: int = 1
    hosts: tuple[str, ...] = ()
    rank: int = 0
    hostfile: Path | None = None
    port: int | None = None

    @property
    def meeting_port(self) -> int:
        """The port that all nodes have been told."""
        return self.port or PORT

    @property
    def are_elsewhere(self) -> bool:
        """Whether there are other nodes than this one."""
        return self.count > 1 or self.hostfile is not None

    def host_slots(self, workers: int) -> str:
        """ "a:4,b:4", as mpirun and horovodrun read it."""
        return ",".join(f"{host}:{workers // self.count}" for host in self.hosts)

    def environment(self, launcher: str) -> dict[str, str]:
        """What the processes of this node need to know of the others. Raises UsageError for an unknown name."""
        if len(self.hosts) < 2 or launcher not in ("torchrun", "direct"):
            return {}
        peer = self.hosts[1 if self.rank == 0 else 0]
        found = {name: os.environ.get(name, mine) for name, mine in interface_variables(peer).items()}
        if launcher == "direct":
            addresses = [f"{host}:{self.meeting_port + index}" for index, host in enumerate(self.hosts)]
            found["TF_CONFIG"] = tf_config(addresses, self.rank)
        return found


ONE_NODE = Nodes()


def check_nodes(
    strategy: str,
    launcher: str,
    workers: int,
    nodes: Nodes,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Raises UsageError where the workers cannot be on those nodes, or the launcher cannot reach them."""
    if nodes.count < 1:
        raise UsageError(f"--nodes: found {nodes.count}, expected an integer of 1 or more")
    if nodes.count > 1 and strategy.endswith("-single"):
        raise UsageError(f"--nodes: found {nodes.count}, but {strategy} is one worker; leave --nodes out")
    if workers % nodes.count:
        raise UsageError(
            f"--workers: found {workers}, expected a multiple of --nodes {nodes.count}: as many on each node"
        )
    if nodes.hosts and (len(nodes.hosts) != nodes.count or not 0 <= nodes.rank < nodes.count):
        raise UsageError(
            f"--hosts: found {len(nodes.hosts)} and --node-rank {nodes.rank}, expected --nodes {nodes.count} names and "
            "a rank below that"
        )
    _check_reach(strategy, launcher, workers, nodes, environment)
    if nodes.hostfile is not None:
        check_hostfile(nodes.hostfile, workers)
    elif workers >= 1 and launcher != "srun":
        check_devices(workers // nodes.count, visible_gpus())


def _check_reach(
    strategy: str, launcher: str, workers: int, nodes: Nodes, environment: Mapping[str, str]
) -> None:
    in_job = "SLURM_JOB_ID" in environment
    if nodes.hostfile is not None and launcher not in ("mpirun", "horovodrun"):
        raise UsageError(f"--hostfile: is for mpirun and horovodrun, found {launcher}; leave it out")
    if nodes.hosts and launcher == "srun":
        raise UsageError("--hosts: Slurm chooses the nodes of srun; leave it out")
    if launcher == "srun":
        _check_allocation(workers, nodes, environment)
    elif (
        nodes.count > 1
        and not nodes.hosts
        and nodes.hostfile is None
        and not (in_job and launcher == "mpirun")
    ):
        each = (
            "; run the command on each node with its --node-rank"
            if launcher in ("torchrun", "direct")
            else ""
        )
        raise UsageError(
            f"--nodes {nodes.count}: {launcher} must know them: give --hosts NAME,NAME…{each}; or let Slurm start the "
            "workers by --launcher srun"
        )
    if launcher == "direct" and nodes.count > 1 and workers != nodes.count and not visible_gpus():
        raise UsageError(
            f"--workers: found {workers} of tf-mirrored on {nodes.count} nodes without GPUs, where TensorFlow has one "
            "worker a process and this starts one process a node; use --launcher srun, or as many workers as nodes"
        )
    if launcher == "torchrun" and nodes.count > 1 and nodes.rank == 0:
        check_port(nodes.meeting_port)


def _check_allocation(workers: int, nodes: Nodes, environment: Mapping[str, str]) -> None:
    """Raises UsageError for more than the Slurm job has that this runs in; outside of one srun asks for its own."""
    have = environment.get("SLURM_JOB_NUM_NODES", "")
    if have.isdecimal() and nodes.count > int(have):
        raise UsageError(
            f"--nodes: found {nodes.count}, but job {environment.get('SLURM_JOB_ID')} has {have}; ask for more nodes, "
            "or use fewer"
        )
    cores = environment.get("SLURM_CPUS_ON_NODE", "")
    if have and cores.isdecimal() and workers // nodes.count > int(cores):
        raise UsageError(
            f"--workers: found {workers // nodes.count} on each node, but job {environment.get('SLURM_JOB_ID')} has "
            f"{cores} core(s) there; ask for more with --ntasks-per-node, or use fewer workers"
        )


def check_hostfile(hostfile: Path, workers: int) -> None:
    """Raises UsageError where the hosts have fewer slots than there are workers (a line is `host slots=N`)."""
    try:
        lines = [line.partition("#")[0].split() for line in hostfile.read_text().splitlines()]
        slots = sum(
            next((int(word[6:]) for word in words[1:] if word.startswith("slots=")), 1)
            for words in lines
            if words
        )
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--hostfile {hostfile}: {error}; expected lines of the form: host slots=4"
        ) from None
    if workers > slots:
        raise UsageError(
            f"--workers: found {workers}, but the hosts in {hostfile} have {slots} slot(s); add hosts or slots, or "
            "use fewer workers"
        )
