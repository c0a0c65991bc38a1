"""What a run ran on: versions of the packages that decide its numbers, and the machine. Unknown is None."""

import os
import platform
import socket
from typing import Any

PACKAGES = (
    "numpy",
    "grain",
    "simplejpeg",
    "pillow",
    "safetensors",
    "torch",
    "tensorflow",
    "keras",
    "horovod",
    "tensorboard",
)
# TensorFlow's builds are published under several names; they are one package to us.
OTHER_NAMES = {"tensorflow": ("tensorflow-cpu", "tf-nightly")}


def versions() -> dict[str, str | None]:
    """Version of Python and of each of PACKAGES, None if it is not installed. Imports none of them."""
    return {"python": platform.python_version(), **{name: package_version(name) for name in PACKAGES}}


def hardware() -> dict[str, Any]:
    """This host, its processor and its GPUs.

    cpu_cores and memory_bytes are the machine's, cpu_cores_usable are those this process may run on.
    gpus is None if NVML does not answer, else a list with the index, name, uuid and memory_bytes of every
    GPU of the host, in NVML's order.
    """
    from telemetry.nvml import gpus_aside

    driver, devices = gpus_aside() or (None, None)
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cpu": _cpu_model(),
        "cpu_cores": os.cpu_count(),
        "cpu_cores_usable": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "driver": driver,
        "gpus": devices,
    }


def package_version(name: str) -> str | None:
    """The version of one package, whatever name its build goes by; None if it is not installed."""
    from importlib import metadata  # 50 ms, unless a framework has imported it already

    for candidate in (name, *OTHER_NAMES.get(name, ())):
        try:
            return metadata.version(candidate)
        except metadata.PackageNotFoundError:
            continue
    return None


def _cpu_model() -> str | None:
    """As /proc/cpuinfo has it; some processors other than x86 do not say there."""
    try:
        with open("/proc/cpuinfo") as file:
            # Only as far as the first core: the kernel makes up this file line by line, for each core anew.
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() == "model name":
                    return value.strip()
    except OSError:
        pass
    return None
