"""What is known of a GPU, and what one reading of it holds. Unknown is None."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A GPU, or a MIG instance of one: then parent_uuid is the GPU's, and index too."""

    index: int
    uuid: str
    name: str
    memory_total_bytes: int | None
    power_limit_mw: int | None
    pci_bus_id: str | None
    parent_uuid: str | None = None


@dataclass
class GpuSample:
    """One reading. Units are in the names; docs/telemetry.md says what each means and how often it changes."""

    utilization_percent: int | None = None
    memory_utilization_percent: int | None = None
    memory_used_bytes: int | None = None
    power_mw: int | None = None
    power_instant_mw: int | None = None
    energy_mj: int | None = None
    temperature_c: int | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    clocks_event_reasons: int | None = None
    pcie_rx_kib_s: float | None = None
    pcie_tx_kib_s: float | None = None
    nvlink_rx_kib_s: float | None = None
    nvlink_tx_kib_s: float | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    sm_active_percent: float | None = None
    sm_occupancy_percent: float | None = None
    tensor_active_percent: float | None = None
    dram_bandwidth_percent: float | None = None
