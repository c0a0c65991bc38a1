"""Horovod as it is installed, and its settings. Nothing of Horovod is imported here: a wrong build may not load."""

import importlib.util
import json
import os
from collections.abc import MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from distributed.devices import visible_gpus
from recipes.recipe import PerformanceConfig
from telemetry.hardware import package_version
from training import communication
from training.options import HorovodOptions
from training.problems import UsageError
from training.run import Run
from training.world import World

MEND = "make horovod builds one that fits (docs/horovod.md)"
PACKAGES = {"torch": ("torch",), "tensorflow": ("tensorflow", "tensorflow-cpu")}
"""Frameworks and the packages that bring them."""
METADATA_NAMES = {"torch": "pytorch", "tensorflow": "tensorflow"}
CPU_CYCLE_TIME_MS = "10"
"""On a CPU the thread that looks for ready gradients takes its time from the worker's one core; Horovod's 1 ms suits
GPUs. A step of digits-resnet18 and stdlib-gpt took 0.86 and 0.70 of that on 2 cores (docs/horovod.md)."""
VARIABLES = (
    "HOROVOD_FUSION_THRESHOLD",
    "HOROVOD_CYCLE_TIME",
    "HOROVOD_AUTOTUNE",
    "HOROVOD_TIMELINE",
    "HOROVOD_STALL_CHECK_TIME_SECONDS",
    "HOROVOD_STALL_CHECK_DISABLE",
    "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS",
    "HOROVOD_CACHE_CAPACITY",
    "HOROVOD_HIERARCHICAL_ALLREDUCE",
    "HOROVOD_NUM_NCCL_STREAMS",
)
"""What Horovod reads as it starts and run.json records: our flags and horovodrun's both end there."""


def check_build(framework: str, folder: Path | None = None) -> Path:
    """Horovod's folder. Raises UsageError where it is missing, has no extension for `framework`, or another's.

    Horovod itself only warns when it was built for another version, and then crashes in it or does not.
    """
    folder = folder or _folder()
    if folder is None:
        raise UsageError(f"horovod: not installed; {MEND}; pip install horovod would not build")
    if not list(folder.joinpath(framework).glob("mpi_lib*.so")):
        raise UsageError(
            f"horovod: {folder} was built without {framework} (its release leaves out what does not compile); {MEND}"
        )
    installed = package_version(framework)
    try:
        built = json.loads((folder / "metadata.json").read_text()).get(METADATA_NAMES[framework])
    except (OSError, ValueError):
        built = None
    if installed is not None and built != installed:
        raise UsageError(f"horovod: {folder} was built for {framework} {built}, found {installed}; {MEND}")
    return folder


def has_mpi(folder: Path) -> bool:
    """Whether the extensions in Horovod's folder are linked with an MPI."""
    return any(b"libmpi" in path.read_bytes() for path in folder.glob("*/mpi_lib*.so"))


def installed_with_mpi() -> bool:
    """Whether there is a Horovod here that mpirun can start."""
    folder = _folder()
    return folder is not None and has_mpi(folder)


def check_compression(options: HorovodOptions, performance: PerformanceConfig) -> None:
    """Raises UsageError for a recipe whose gradients are to travel in a type that Horovod does not add up."""
    if performance.gradient_compression == "bf16" and options.compression == "none":
        raise UsageError(
            "performance.gradient_compression: found bf16, which Horovod's all-reduce on PyTorch refuses, so neither "
            "Horovod strategy takes it; expected none or fp16 (--compression fp16 wins over the recipe)"
        )


def check_options(options: HorovodOptions, workers: int) -> None:
    """Raises UsageError for values that Horovod would misread."""
    for flag, value in (
        ("--fusion-threshold-mib", options.fusion_threshold_mib),
        ("--cycle-time-ms", options.cycle_time_ms),
        ("--stall-check-s", options.stall_check_s),
    ):
        if value is not None and not 0 <= value < float("inf"):
            raise UsageError(f"{flag}: found {value}, expected a number of 0 or more")
    if options.profile and options.timeline is not None:
        raise UsageError(
            "--timeline: found beside --profile, which has Horovod's timeline written too; leave it out"
        )
    if options.adasum and workers & (workers - 1):
        raise UsageError(f"--adasum: found {workers} workers, expected a power of 2")


def prepare_horovod(
    options: HorovodOptions,
    world: World,
    performance: PerformanceConfig,
    environment: MutableMapping[str, str] = os.environ,
) -> None:
    """Hand our flags and the recipe's switches to Horovod, which reads its variables in init.

    A flag wins over Horovod's variable, and that over the recipe. Raises UsageError for impossible values.
    """
    check_options(options, world.workers)
    check_compression(options, performance)
    if options.fusion_threshold_mib is not None:
        environment["HOROVOD_FUSION_THRESHOLD"] = str(int(options.fusion_threshold_mib * 2**20))
    elif performance.bucket_mib:
        environment.setdefault("HOROVOD_FUSION_THRESHOLD", str(performance.bucket_mib * 2**20))
    if options.cycle_time_ms is not None:
        environment["HOROVOD_CYCLE_TIME"] = str(options.cycle_time_ms)
    elif not visible_gpus(environment):
        environment.setdefault("HOROVOD_CYCLE_TIME", CPU_CYCLE_TIME_MS)
    if options.autotune:
        environment["HOROVOD_AUTOTUNE"] = "1"
    if options.timeline is not None:
        environment["HOROVOD_TIMELINE"] = str(options.timeline)
    elif options.profile:
        environment["HOROVOD_TIMELINE"] = "DYNAMIC"  # to be started and stopped later (Timeline)
    if options.stall_check_s is not None:
        environment["HOROVOD_STALL_CHECK_DISABLE"] = str(int(options.stall_check_s == 0))
        environment["HOROVOD_STALL_CHECK_TIME_SECONDS"] = str(max(1, round(options.stall_check_s)))


def check_group(hvd: Any, world: World) -> None:
    """Raises UsageError where Horovod, once started, sees another world than the launcher announced.

    Under an mpirun of another MPI than it was built with, each process would be a world of its own.
    """
    rank, local_rank, size = hvd.rank(), hvd.local_rank(), hvd.size()
    if (rank, local_rank, size) != (world.rank, world.local_rank, world.workers):
        raise UsageError(
            f"horovod: {world.launcher} started rank {world.rank} (local {world.local_rank}) of {world.workers}, but "
            f"Horovod sees rank {rank} (local {local_rank}) of {size}: its MPI is not the launcher's; use mpirun of "
            f"the MPI that Horovod was built with, or horovodrun --gloo, or rebuild: {MEND}"
        )


def check_abilities(hvd: Any, options: HorovodOptions, uses_gpu: bool) -> None:
    """Raises UsageError for Adasum without MPI, and where GPUs' gradients would go through the host without NCCL."""
    if options.adasum and not hvd.mpi_enabled():
        raise UsageError("--adasum: needs MPI, but Horovod was started over Gloo; start it with mpirun")
    if uses_gpu and not hvd.nccl_built():
        raise UsageError(
            "horovod: built without NCCL, but the workers use GPUs; rebuild it where CUDA's compiler and NCCL are "
            "installed (docs/horovod.md), or hide the GPUs with CUDA_VISIBLE_DEVICES= to train on the CPU"
        )


def wire_type(options: HorovodOptions, run: Run) -> str:
    """The type in which gradients travel, or "none" for their own. --compression fp16 wins over the recipe."""
    performance = run.recipe.performance
    if options.compression != "none":
        performance = replace(performance, gradient_compression=options.compression)
    return communication.wire_type(performance, run.workers, run.exchanges)


def settings(
    hvd: Any,
    options: HorovodOptions,
    compression: str,
    environment: MutableMapping[str, str] = os.environ,
) -> dict:
    """What of Horovod changes speed or rounding, for run.json. compression: what `wire_type` says."""
    tuned = environment.get("HOROVOD_AUTOTUNE", "0") != "0"
    threshold = environment.get(
        "HOROVOD_FUSION_THRESHOLD", "" if tuned else str(communication.HOROVOD_FUSION_MIB * 2**20)
    )
    bucket_mib = int(threshold) / 2**20 if threshold.isdigit() else None
    return {
        "communication": communication.in_effect(compression, bucket_mib),
        "horovod": {
            "controller": "mpi" if hvd.mpi_enabled() else "gloo",
            "built_with": [part for part in ("mpi", "gloo", "nccl") if getattr(hvd, f"{part}_built")()],
            "compression": compression,
            "reduction": "adasum" if options.adasum else "sum of shares of the mean",
            **{name: environment.get(name) for name in VARIABLES},
        },
    }


def _folder() -> Path | None:
    """Where the package `horovod` lies; found without importing it."""
    spec = importlib.util.find_spec("horovod")
    return Path(spec.origin).parent if spec is not None and spec.origin else None
