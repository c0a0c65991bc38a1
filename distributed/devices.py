"""Which of this node's GPUs a process may use, found without importing a framework."""

import itertools
import os
from collections.abc import Mapping
from pathlib import Path

from distributed.places import Place
from training.options import warn
from training.problems import UsageError
from training.world import World


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


def has_own_gpus(place: Place, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether srun dealt the node's GPUs out (--gpus-per-task, --gpu-bind), so that each task sees its own alone."""
    on_node = environment.get("SLURM_GPUS_ON_NODE", "")
    if place.launcher != "srun" or not on_node.isdecimal():
        return False
    return 0 < visible_gpus(environment) < place.local_size <= int(on_node)


def check_devices(local_workers: int, gpus: int) -> None:
    """Raises UsageError for more workers on this node than it has GPUs (on a CPU they share the cores)."""
    if gpus and local_workers > gpus:
        raise UsageError(
            f"--workers: found {local_workers} on this node, but {gpus} GPU(s) are visible; use at most {gpus}, "
            "or hide the GPUs with CUDA_VISIBLE_DEVICES= to train on the CPU"
        )


def check_mirrored_devices(place: Place, environment: Mapping[str, str] = os.environ) -> None:
    """Raises UsageError where several processes of tf-mirrored on a node would each drive all of its GPUs."""
    gpus, on_node = visible_gpus(environment), environment.get("SLURM_GPUS_ON_NODE", "")
    dealt_out = on_node.isdecimal() and gpus * place.local_size <= int(on_node)
    if gpus and place.local_size > 1 and not dealt_out:
        raise UsageError(
            f"tf-mirrored: found {place.local_size} processes on this node, each of which would drive the same {gpus} "
            "GPU(s); start one a node (--ntasks-per-node=1), or give each its own (--gpus-per-task)"
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
