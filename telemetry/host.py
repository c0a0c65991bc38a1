"""What the machine around the GPUs does: processor, memory, network, disk, by psutil."""

from dataclasses import dataclass

import psutil  # type: ignore[import-untyped] # its stubs are a package of their own

LEAST_INTERVAL_S = 1.0
"""The kernel counts processor time in ticks of 10 ms: read more often it would say little, and cost half a core's %."""


@dataclass
class HostSample:
    """One reading. cpu_percent is of all cores together; it and the rates are means since the reading before."""

    cpu_percent: float | None = None
    memory_used_bytes: int | None = None
    network_rx_kib_s: float | None = None
    network_tx_kib_s: float | None = None
    disk_read_kib_s: float | None = None
    disk_write_kib_s: float | None = None


class HostReader:
    """Reads the host. The first reading has no rates yet."""

    def __init__(self) -> None:
        self._busy_s = self._total_s = 0.0
        self._bytes: dict[str, int] = {}
        self._read_s: float | None = None

    def read(self, now_s: float) -> HostSample:
        """One reading at monotonic time `now_s`."""
        memory = psutil.virtual_memory()
        sample = HostSample(memory_used_bytes=memory.total - memory.available)
        elapsed_s = None if self._read_s is None else now_s - self._read_s
        times = psutil.cpu_times()
        total_s = (
            sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        )  # in user and nice
        busy_s = total_s - times.idle - getattr(times, "iowait", 0.0)
        if elapsed_s and total_s > self._total_s:
            share = (busy_s - self._busy_s) / (total_s - self._total_s)
            sample.cpu_percent = round(100 * min(max(share, 0.0), 1.0), 2)
        now_bytes = _bytes_so_far()
        for name, count in now_bytes.items():
            before = self._bytes.get(name)
            if elapsed_s and before is not None and count >= before:
                setattr(sample, f"{name}_kib_s", round((count - before) / 1024 / elapsed_s, 3))
        self._busy_s, self._total_s, self._bytes, self._read_s = busy_s, total_s, now_bytes, now_s
        return sample


def _bytes_so_far() -> dict[str, int]:
    """Since boot. Of the network without the loopback interface, where nothing leaves the host."""
    found = {}
    cards = [count for name, count in psutil.net_io_counters(pernic=True).items() if name != "lo"]
    if cards:
        found["network_rx"] = sum(card.bytes_recv for card in cards)
        found["network_tx"] = sum(card.bytes_sent for card in cards)
    if disks := psutil.disk_io_counters():
        found["disk_read"], found["disk_write"] = disks.read_bytes, disks.write_bytes
    return found
