"""What each launcher leaves in the environment of a process that it starts: its place among the others."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from distributed import slurm_step
from training.problems import UsageError


@dataclass(frozen=True)
class Place:
    """One process's place, as one launcher tells it. `read` are the variables that said so, with their values.

    hosts: the host of each process in the order of the ranks, where the launcher tells; `addresses` likewise host:port.
    """

    launcher: str
    rank: int
    size: int
    local_rank: int
    local_size: int
    read: dict[str, str] = field(compare=False)
    hosts: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether the four numbers can be true together."""
        return (
            0 <= self.local_rank <= self.rank < self.size and self.local_rank < self.local_size <= self.size
        )

    @property
    def peer(self) -> str | None:
        """Another host than this process's, if there is one that is known."""
        return next((host for host in self.hosts if host != self.hosts[self.rank]), None)

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        """The four of them."""
        return self.rank, self.size, self.local_rank, self.local_size

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.read.items())


@dataclass(frozen=True)
class Variables:
    """What one kind of launcher calls a process's place in the environment."""

    name: str
    rank: str
    size: str
    local_rank: str
    local_size: str

    @property
    def all(self) -> tuple[str, ...]:
        """The four of them, in the order of the fields."""
        return self.rank, self.size, self.local_rank, self.local_size

    def place(self, environment: Mapping[str, str]) -> Place | None:
        """The place that they tell; None unless all four are there. Raises UsageError for what is no number."""
        if any(name not in environment for name in self.all):
            return None
        rank, size, local_rank, local_size = (number(environment, name) for name in self.all)
        read = {name: environment[name] for name in self.all}
        return Place(self.name, rank, size, local_rank, local_size, read)


TORCHRUN = Variables("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
MPI_LAUNCHERS = (
    Variables("horovodrun", *(f"HOROVOD_{key}" for key in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))),
    Variables("mpirun", *(f"OMPI_COMM_WORLD_{key}" for key in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))),
    # MPICH and Intel MPI
    Variables("mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
"""horovodrun over Gloo, Open MPI (also under horovodrun), MPICH's kind: in the order in which Horovod looks."""
SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NODEID")
SRUN_LISTS = ("SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NODELIST")


def of_srun(environment: Mapping[str, str] = os.environ) -> Place | None:
    """The place in a step of srun; None outside of one. Raises UsageError for what cannot be."""
    if not slurm_step.in_step(environment):
        return None
    missing = [name for name in (*SRUN, *SRUN_LISTS) if name not in environment]
    if missing:
        raise UsageError(
            f"{', '.join(missing)}: not set, but SLURM_STEP_ID={environment['SLURM_STEP_ID']} is; keep all or none of "
            "Slurm's variables"
        )
    rank, size, local_rank, node = (number(environment, name) for name in SRUN)
    counts = slurm_step.expand_counts(environment["SLURM_STEP_TASKS_PER_NODE"])
    hosts = slurm_step.expand_hosts(environment["SLURM_STEP_NODELIST"])
    read = {name: environment[name] for name in (*SRUN, *SRUN_LISTS)}
    local_size = counts[node] if 0 <= node < len(counts) else 0
    place = Place("srun", rank, size, local_rank, local_size, read)
    if not place.is_sound or len(hosts) != len(counts) or sum(counts) != size:
        raise UsageError(f"srun: {place} contradict each other; unset what is left over, start again")
    if rank != sum(counts[:node]) + local_rank:
        return place  # dealt out in turn: who is where is not known
    each = tuple(host for host, count in zip(hosts, counts, strict=True) for _ in range(count))
    return Place("srun", rank, size, local_rank, local_size, read, each)


def of_tf_config(environment: Mapping[str, str]) -> Place | None:
    """The place that TF_CONFIG tells, as TensorFlow defines it; None where it is not set or names no cluster.

    Raises UsageError for one that is malformed, or with roles that a mirrored strategy does not have.
    """
    text = environment.get("TF_CONFIG", "")
    try:
        config = json.loads(text or "{}")
        cluster, task = config.get("cluster") or {}, config.get("task") or {}
        chief, workers = ([str(each) for each in cluster.get(role, [])] for role in ("chief", "worker"))
        addresses = [*chief, *workers]
        if not cluster:
            return None
        kind, index = task["type"], task["index"]
        rank = index + (len(chief) if kind == "worker" else 0)
        known = {"chief": chief, "worker": workers}[kind]
        if set(cluster) - {"chief", "worker"} or not 0 <= index < len(known):
            raise KeyError(kind)
        hosts = [each.rpartition(":")[0] for each in addresses]
        if not all(hosts):
            raise ValueError(addresses)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            f'TF_CONFIG: found {text!r}, expected {{"cluster": {{"worker": ["host:port", …]}}, "task": '
            '{"type": "worker", "index": 0}} with an index of the list; unset it to train on this node'
        ) from None
    same = [number for number, host in enumerate(hosts) if host == hosts[rank]]
    return Place(
        "TF_CONFIG",
        rank,
        len(addresses),
        same.index(rank),
        len(same),
        {"TF_CONFIG": text},
        tuple(hosts),
        tuple(addresses),
    )


def number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """The integer in a variable. Raises UsageError."""
    text = environment.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise UsageError(f"{name}: found {text!r} in the environment, expected an integer") from None
