"""What is counted and timed over the steps between two synchronisations with the device."""

import resource
import time
from dataclasses import dataclass, field
from typing import Any

from telemetry.clock import clock
from training.feed import Batches


@dataclass
class Window:
    """The steps between two synchronisations with the device. `norms` hold device scalars until `close`."""

    norms: list[Any] = field(default_factory=list)
    targets: int = 0
    replaced: int = 0
    data_time_s: float = 0.0
    opened_s: float = field(default_factory=time.perf_counter)
    wall_s: float = 0.0
    closed: dict[str, Any] = field(default_factory=dict)
    loss: float = 0.0

    def take(self, batches: Batches, data_time_s: float) -> None:
        """Count one step's batches, and the time they were waited for."""
        self.data_time_s += data_time_s
        self.targets += int(batches[0]["target_count"])
        self.replaced += sum(int(batch["replaced"]) for batch in batches)

    def close(self, loss: float) -> None:
        """Read what is still on the device and stop the clock."""
        self.norms = [float(norm) for norm in self.norms]
        self.loss, self.wall_s = loss, time.perf_counter() - self.opened_s
        # What the samples of this host are joined by (telemetry.join).
        self.closed = {"t_monotonic_s": time.monotonic(), "t_unix_s": time.time(), **clock()}
        # Of this process, in host memory: what a GPU holds is in its telemetry.
        self.closed["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
