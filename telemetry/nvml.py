"""The one place that speaks to NVIDIA's management library (NVML), through the package nvidia-ml-py."""

from typing import Any


def gpus() -> tuple[str, list[dict[str, Any]]] | None:
    """The driver's version, and index, name, uuid and memory_bytes of each GPU of this host, in NVML's order.

    None where NVML does not answer: the package, the library or the driver is missing. A GPU that does not
    tell its memory (under MIG, say) has None there.
    """
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        devices = [
            {
                "index": index,
                "name": pynvml.nvmlDeviceGetName(handle),
                "uuid": pynvml.nvmlDeviceGetUUID(handle),
                "memory_bytes": _memory_bytes(handle),
            }
            for index, handle in enumerate(handles)
        ]
        return pynvml.nvmlSystemGetDriverVersion(), devices
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _memory_bytes(handle: Any) -> int | None:
    import pynvml

    try:
        return pynvml.nvmlDeviceGetMemoryInfo(handle).total
    except pynvml.NVMLError:
        return None
