"""Who am I, where: the one place that reads what a launcher left in the environment."""

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from training.options import warn
from training.problems import UsageError
from training.process import LAUNCHED_BY
from training.world import World


@dataclass(frozen=True)
class Variables:
    """What one kind of launcher that Horovod knows calls a process's place in the environment."""

    name: str
    rank: str
    size: str
    local_rank: str
    local_size: str

    @property
    def all(self) -> tuple[str, ...]:
        """The four of them, in the order of the fields."""
        return self.rank, self.size, self.local_rank, self.local_size


MPI_LAUNCHERS = (
    Variables("horovodrun", *(f"HOROVOD_{key}" for key in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))),
    Variables("mpirun", *(f"OMPI_COMM_WORLD_{key}" for key in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))),
    # MPICH and Intel MPI
    Variables("mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
"""horovodrun over Gloo, Open MPI (also under horovodrun), MPICH's kind: in the order in which Horovod looks."""


def alone(strategy: str, environment: Mapping[str, str] = os.environ) -> World:
    """The world of a -single strategy: this process. Raises UsageError where a launcher started several."""
    for name, launcher in (("WORLD_SIZE", "torchrun"), *((each.size, each.name) for each in MPI_LAUNCHERS)):
        size = _number(environment, name, default=1)
        if size > 1:
            raise UsageError(
                f"{name}: found {size} ({launcher}), but {strategy} is one process and each copy would train alone; "
                f"start it with python -m distributed.{strategy.replace('-', '_')}"
            )
    return World(0, 0, 1, 1, (0,), "direct")


def in_one_process(workers: int | None, environment: Mapping[str, str] = os.environ) -> World:
    """tf-mirrored on one node: one process drives all workers, by default every GPU or, without one, one CPU core.

    Raises UsageError for more workers than GPUs, or where a launcher started several processes.
    """
    alone("tf-mirrored", environment)
    gpus = visible_gpus(environment)
    if workers is None:
        workers = max(gpus, 1)
    if workers < 1:
        raise UsageError(f"--workers: found {workers}, expected an integer of 1 or more")
    check_devices(workers, gpus)
    return World(0, 0, 1, workers, tuple(range(workers)), "direct")


def from_torchrun(strategy: str, environment: Mapping[str, str] = os.environ) -> World:
    """One process a worker, as torchrun numbers them. Raises UsageError where torchrun did not start this one."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in names if name not in environment]
    if missing:
        raise UsageError(
            f"{strategy}: {', '.join(missing)} not set, so torchrun did not start this process; "
            f"use torchrun --nproc-per-node=N -m distributed.{strategy.replace('-', '_')} … "
            f"or python -m launchers.train {strategy} …"
        )
    rank, local_rank, workers, local_workers = (_number(environment, name) for name in names[:4])
    if not (0 <= local_rank <= rank < workers and local_rank < local_workers <= workers):
        found = ", ".join(f"{name}={environment[name]}" for name in names[:4])
        raise UsageError(
            f"{strategy}: {found} contradict each other; unset them and start with torchrun again"
        )
    check_devices(local_workers, visible_gpus(environment))
    return World(
        rank, local_rank, workers, workers, (rank,), "torchrun", on_one_node=local_workers == workers
    )


def from_mpi(strategy: str, environment: Mapping[str, str] = os.environ) -> World:
    """One process a worker, as horovodrun or mpirun number them.

    Raises UsageError where neither started this process, since Horovod would then train alone.
    """
    found = [each for each in MPI_LAUNCHERS if each.rank in environment or each.size in environment]
    if not found:
        module, others = strategy.replace("-", "_"), environment.get("WORLD_SIZE")
        raise UsageError(
            f"{strategy}: {'torchrun' if others else 'neither horovodrun nor mpirun'} started this process, so it "
            f"would train alone; use mpirun -np N python -m distributed.{module} …, horovodrun -np N … or "
            f"python -m launchers.train {strategy} --workers N …"
        )
    whole = [each for each in found if all(name in environment for name in each.all)]
    for each in whole or found:  # a part of another's is left over from what started the launcher
        missing = [name for name in each.all if name not in environment]
        if missing:
            raise UsageError(
                f"{strategy}: {', '.join(missing)} not set by {each.name}; start with {each.name} again"
            )
    found = whole
    places = [tuple(_number(environment, name) for name in each.all) for each in found]
    rank, workers, local_rank, local_workers = places[0]
    sound = 0 <= local_rank <= rank < workers and local_rank < local_workers <= workers
    if not sound or len(set(places)) > 1:
        values = ", ".join(f"{name}={environment[name]}" for each in found for name in each.all)
        raise UsageError(f"{strategy}: {values} contradict each other; unset what is left over, start again")
    check_devices(local_workers, visible_gpus(environment))
    launcher = environment.get(LAUNCHED_BY) or found[0].name
    return World(rank, local_rank, workers, workers, (rank,), launcher, on_one_node=local_workers == workers)


def launched_rank(environment: Mapping[str, str] = os.environ) -> int:
    """The rank, for messages that are to appear once, before anything else is known."""
    whole = [each.rank for each in MPI_LAUNCHERS if all(name in environment for name in each.all)]
    names = (*whole, "RANK", *(each.rank for each in MPI_LAUNCHERS))
    text = next((environment[name] for name in names if name in environment), "0")
    return int(text) if text.isdecimal() else 0


def visible_gpus(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> int:
    """NVIDIA GPUs that a framework will find here, counted without importing one."""
    present = sum(path.name.removeprefix("nvidia").isdigit() for path in devices.glob("nvidia*"))
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return present
    wanted = itertools.takewhile(lambda item: _names_gpu(item, present), map(str.strip, chosen.split(",")))
    return min(len(list(wanted)), present)


def _names_gpu(item: str, present: int) -> bool:
    """Whether CUDA finds a device by this item of CUDA_VISIBLE_DEVICES; it ignores all after one that names none."""
    return item.startswith(("GPU-", "MIG-")) or (item.isdecimal() and int(item) < present)


def check_devices(local_workers: int, gpus: int) -> None:
    """Raises UsageError for more workers on this node than it has GPUs (on a CPU they share the cores)."""
    if gpus and local_workers > gpus:
        raise UsageError(
            f"--workers: found {local_workers} on this node, but {gpus} GPU(s) are visible; use at most {gpus}, "
            "or hide the GPUs with CUDA_VISIBLE_DEVICES= to train on the CPU"
        )


def warn_of_devices(world: World, uses_gpu: bool, environment: Mapping[str, str] = os.environ) -> None:
    """One warning where GPUs were asked for and there are none, one where CPU workers outnumber the cores."""
    if not world.is_main or uses_gpu:
        return
    chosen = environment.get("CUDA_VISIBLE_DEVICES", "")
    if chosen.strip() not in ("", "-1"):
        warn(f"CUDA_VISIBLE_DEVICES={chosen}, but no usable GPU; training on the CPU")
    cores = len(os.sched_getaffinity(0))
    if world.on_one_node and world.workers > cores:
        warn(f"{world.workers} workers share {cores} CPU core(s); run.json marks this run as oversubscribed")


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise UsageError(f"{name}: found {text!r} in the environment, expected an integer") from None
