"""What Hopper and later GPUs count of themselves (GPM), through the library that telemetry.nvml has opened."""

from collections.abc import Callable
from typing import Any

GPM_METRICS = {
    "sm_active_percent": 2,
    "sm_occupancy_percent": 3,
    "tensor_active_percent": 5,
    "dram_bandwidth_percent": 10,
}
"""NVML_GPM_METRIC_… in nvml.h: what Hopper and later GPUs count themselves."""


class Gpm:
    """The GPU's own performance monitors: means between two samples of its counters (nvml.h, GPM)."""

    def __init__(self, ask: Callable[..., Any], library: Any, handle: Any, parent: Any) -> None:
        self._ask, self._library, self._handle, self._parent = ask, library, handle, parent
        self._instance: int | None = None
        self._samples: list[Any] | None = None
        self._has_previous = False

    def _open(self) -> list[Any]:
        """Two samples that take turns, or none where the GPU has no GPM."""
        library, parent = self._library, self._parent
        support = self._ask(getattr(library, "nvmlGpmQueryDeviceSupport", missing), parent or self._handle)
        if support is None or not support.isSupportedDevice:
            return []
        if parent is not None:
            self._instance = self._ask(library.nvmlDeviceGetGpuInstanceId, self._handle)
            if self._instance is None:
                return []
        pair = [self._ask(library.nvmlGpmSampleAlloc) for _ in range(2)]
        return [] if None in pair else pair

    def read(self, ask_device: Callable[..., Any]) -> dict[str, float | None]:
        """GPM_METRICS since the reading before; nothing in the first, and where there is no GPM."""
        if self._samples is None:
            self._samples = self._open()
        if not self._samples:
            return {}
        previous, current = self._samples
        if self._parent is None:
            taken = ask_device("gpm", self._library.nvmlGpmSampleGet, self._handle, current)
        else:
            taken = ask_device(
                "gpm", self._library.nvmlGpmMigSampleGet, self._parent, self._instance, current
            )
        if taken is None:
            self._has_previous = False
            return {}
        self._samples.reverse()  # what is current now is the next reading's previous
        if not self._has_previous:
            self._has_previous = True
            return {}
        wanted = self._library.c_nvmlGpmMetricsGet_t()
        wanted.version = self._library.NVML_GPM_METRICS_GET_VERSION
        wanted.numMetrics = len(GPM_METRICS)
        wanted.sample1, wanted.sample2 = previous, current
        for place, number in enumerate(GPM_METRICS.values()):
            wanted.metrics[place].metricId = number
        if ask_device("gpm metrics", self._library.nvmlGpmMetricsGet, wanted) is None:
            return {}
        found = zip(GPM_METRICS, wanted.metrics, strict=False)
        return {name: metric.value if metric.nvmlReturn == 0 else None for name, metric in found}


def missing(*_: Any) -> None:
    """In place of a function that an old nvidia-ml-py does not have."""
