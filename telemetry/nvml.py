"""The one place that speaks to NVIDIA's management library (NVML), through the package nvidia-ml-py.

What a GPU does not offer is None, and is not asked for again. Only a lost GPU raises, and costs its own columns alone.
No call in here lists processes: those take a lock of the driver's that a training step waits for.
"""

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from telemetry.gpm import Gpm
from telemetry.samples import Device, GpuSample

CHECKOUT = str(Path(__file__).resolve().parents[1])
ASIDE = "import json; from telemetry.nvml import gpus; print(json.dumps(gpus()))"
NEVER = {2, 3, 4, 13}
"""Invalid argument, not supported, no permission, function not found: what a GPU answers for good."""
LOST = {15, 16}
"""GPU is lost, reset required."""
ALL_LINKS = 0xFFFFFFFF
"""As the scope of an NVLink counter: the sum over the GPU's links (nvml.h)."""
FIELDS = {
    "energy_mj": 83,
    "nvlink_tx_kib": (138, ALL_LINKS),
    "nvlink_rx_kib": (139, ALL_LINKS),
    "power_mw": 185,
    "power_instant_mw": 186,
    "pcie_tx_bytes": 197,
    "pcie_rx_bytes": 198,
}
"""NVML_FI_DEV_… in nvml.h: several counters by one call."""


class NvmlUnavailable(Exception):
    """There is no NVML here; the message says why."""


class DeviceLost(Exception):
    """This GPU answers no more until it is reset."""


class Nvml:
    """A session with the library. Raises NvmlUnavailable, with the reason, where there is none."""

    def __init__(self) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise NvmlUnavailable("the package nvidia-ml-py is not installed") from error
        self._library = pynvml
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            what = (
                "libnvidia-ml.so.1 not found" if error.value == 12 else f"{error} (NVML error {error.value})"
            )
            raise NvmlUnavailable(what) from error
        self.driver: str | None = ask(pynvml.nvmlSystemGetDriverVersion)
        self.readers = self._find_readers()
        self.devices = [reader.device for reader in self.readers]

    def close(self) -> None:
        """Give the library back."""
        ask(self._library.nvmlShutdown)

    def _find_readers(self) -> list["Reader"]:
        count = ask(self._library.nvmlDeviceGetCount)
        if count is None:
            self.close()
            raise NvmlUnavailable("NVML does not tell how many GPUs there are")
        readers = []
        for index in range(count):
            handle = ask(self._library.nvmlDeviceGetHandleByIndex, index)
            if handle is None:  # lost already, or not ours to see
                continue
            device = self._describe(handle, index)
            if device is None:
                continue
            gpu = Reader(self._library, handle, device)
            readers.append(gpu)
            for number in range(self._instances(handle)):
                instance = ask(self._library.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
                described = None if instance is None else self._describe(instance, index, gpu.device)
                if described is not None:
                    readers.append(Reader(self._library, instance, described, handle))
        if count and not readers:
            self.close()
            raise NvmlUnavailable(f"none of the {count} GPUs answers")
        return readers

    def _describe(self, handle: Any, index: int, parent: Device | None = None) -> Device | None:
        """None where the driver does not tell its UUID: nothing could be joined to it."""
        library = self._library
        uuid = ask(library.nvmlDeviceGetUUID, handle)
        if uuid is None:
            return None
        pci = None if parent else ask(library.nvmlDeviceGetPciInfo, handle)
        memory = ask(library.nvmlDeviceGetMemoryInfo, handle)
        return Device(
            index,
            uuid,
            ask(library.nvmlDeviceGetName, handle) or "unknown",
            memory.total if memory else None,
            None if parent else ask(library.nvmlDeviceGetEnforcedPowerLimit, handle),
            as_text(pci.busId) if pci else None,
            parent.uuid if parent else None,
        )

    def _instances(self, handle: Any) -> int:
        """How many MIG instances to look for."""
        mode = ask(self._library.nvmlDeviceGetMigMode, handle)
        return ask(self._library.nvmlDeviceGetMaxMigDeviceCount, handle) or 0 if mode and mode[0] else 0


class Reader:
    """Reads one device. Rates are means since the reading before, hence None in the first."""

    def __init__(self, library: Any, handle: Any, device: Device, parent: Any = None) -> None:
        self.device = device
        self._library = library
        self._handle = handle
        self._never: set[str] = set()
        self._counters: dict[str, int] = {}
        self._read_s: float | None = None
        self._gpm = Gpm(ask, library, handle, parent)
        if parent is not None:  # an instance has no power, clock or link of its own
            self._never |= {
                "fields",
                "power",
                "energy",
                "temperature v",
                "temperature",
                "clocks",
                "memory clock",
            }
            self._never |= {"reasons", "reasons, old", "pcie 0", "pcie 1", "ecc", "ecc, uncorrected"}

    def read(self, now_s: float, slow_too: bool = True) -> GpuSample:
        """One reading at monotonic time `now_s`. Raises DeviceLost.

        Without `slow_too` the calls that take milliseconds are left out: ECC, and PCIe where it has no counters
        (the driver then watches the bus for 20 ms a direction).
        """
        nvml, handle = self._library, self._handle
        sample = GpuSample()
        if rates := self._ask("utilization", nvml.nvmlDeviceGetUtilizationRates, handle):
            sample.utilization_percent, sample.memory_utilization_percent = rates.gpu, rates.memory
        sample.memory_used_bytes = self._memory_used_bytes()
        self._read_fields(sample, now_s)
        if sample.power_mw is None:
            sample.power_mw = self._ask("power", nvml.nvmlDeviceGetPowerUsage, handle)
        if sample.energy_mj is None:
            sample.energy_mj = self._ask("energy", nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
        sample.temperature_c = self._temperature_c()
        sample.sm_clock_mhz = self._ask("clocks", nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM)
        sample.memory_clock_mhz = self._ask(
            "memory clock", nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_MEM
        )
        sample.clocks_event_reasons = self._clocks_event_reasons()
        if slow_too:
            self._read_slow(sample)
        for name, value in self._gpm.read(self._ask).items():
            setattr(sample, name, value)
        return sample

    def _ask(self, key: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """The answer, or None. A refusal for good is remembered under `key`."""
        if key in self._never:
            return None
        try:
            return function(*arguments)
        except self._library.NVMLError as error:
            if error.value in LOST:
                raise DeviceLost(str(error)) from error
            if error.value in NEVER:
                self._never.add(key)
            return None

    def _memory_used_bytes(self) -> int | None:
        """Without what the driver keeps for itself, where it tells that apart."""
        nvml = self._library
        newer = self._ask("memory v2", nvml.nvmlDeviceGetMemoryInfo, self._handle, nvml.nvmlMemory_v2)
        memory = newer or self._ask("memory", nvml.nvmlDeviceGetMemoryInfo, self._handle)
        return memory and memory.used

    def _temperature_c(self) -> int | None:
        nvml, sensor = self._library, self._library.NVML_TEMPERATURE_GPU
        if (newer := getattr(nvml, "nvmlDeviceGetTemperatureV", None)) is not None:
            found = self._ask("temperature v", newer, self._handle, sensor)
            if found is not None:
                return found
        return self._ask("temperature", nvml.nvmlDeviceGetTemperature, self._handle, sensor)

    def _clocks_event_reasons(self) -> int | None:
        nvml = self._library
        found = self._ask("reasons", nvml.nvmlDeviceGetCurrentClocksEventReasons, self._handle)
        if found is None and "reasons" in self._never:  # its name before driver 535
            found = self._ask("reasons, old", nvml.nvmlDeviceGetCurrentClocksThrottleReasons, self._handle)
        return found

    def _read_fields(self, sample: GpuSample, now_s: float) -> None:
        """What one call brings: power, energy, and the counters of the links, turned into rates."""
        fields = self._ask("fields", self._library.nvmlDeviceGetFieldValues, self._handle, [*FIELDS.values()])
        values = dict(zip(FIELDS, map(self._field, fields), strict=True)) if fields else dict.fromkeys(FIELDS)
        sample.power_mw, sample.power_instant_mw = values["power_mw"], values["power_instant_mw"]
        sample.energy_mj = values["energy_mj"]
        elapsed_s = None if self._read_s is None else now_s - self._read_s
        for link, unit, per_kib in (("pcie", "bytes", 1024), ("nvlink", "kib", 1)):
            for way in ("rx", "tx"):
                name, counter = f"{link}_{way}_{unit}", values[f"{link}_{way}_{unit}"]
                before = self._counters.get(name)
                if counter is None:
                    continue
                self._counters[name] = counter
                if before is not None and elapsed_s and counter >= before:  # less: it was reset, or wrapped
                    setattr(sample, f"{link}_{way}_kib_s", (counter - before) / per_kib / elapsed_s)
        self._read_s = now_s

    def _field(self, field: Any) -> int | None:
        """The number in an NVML field value. Of a byte counter with 32 bits one cannot tell how often it wrapped."""
        nvml = self._library
        if field.nvmlReturn in LOST:
            raise DeviceLost(str(nvml.NVMLError(field.nvmlReturn)))
        if field.nvmlReturn:
            return None
        is_bytes = field.fieldId in (FIELDS["pcie_tx_bytes"], FIELDS["pcie_rx_bytes"])
        match field.valueType:
            case nvml.NVML_VALUE_TYPE_UNSIGNED_INT:
                return None if is_bytes else field.value.uiVal
            case nvml.NVML_VALUE_TYPE_UNSIGNED_LONG:
                return field.value.ulVal
            case nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG | nvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG:
                return field.value.ullVal
        return None

    def _read_slow(self, sample: GpuSample) -> None:
        nvml, handle = self._library, self._handle
        if "pcie_rx_bytes" not in self._counters:
            ways = nvml.NVML_PCIE_UTIL_RX_BYTES, nvml.NVML_PCIE_UTIL_TX_BYTES
            received, sent = (
                self._ask(f"pcie {way}", nvml.nvmlDeviceGetPcieThroughput, handle, way) for way in ways
            )
            sample.pcie_rx_kib_s, sample.pcie_tx_kib_s = received, sent
        count, since_load = nvml.nvmlDeviceGetTotalEccErrors, nvml.NVML_VOLATILE_ECC
        corrected, uncorrected = (
            nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED,
            nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
        )
        sample.ecc_corrected = self._ask("ecc", count, handle, corrected, since_load)
        sample.ecc_uncorrected = self._ask("ecc, uncorrected", count, handle, uncorrected, since_load)


def gpus() -> tuple[str | None, list[dict[str, Any]]] | None:
    """The driver's version, and index, name, uuid and memory_bytes of each GPU of this host, in NVML's order.

    None where NVML does not answer: the package, the library or the driver is missing. A GPU that does not
    tell its memory (under MIG, say) has None there.
    """
    try:
        session = Nvml()
    except NvmlUnavailable:
        return None
    found = [
        {"index": gpu.index, "name": gpu.name, "uuid": gpu.uuid, "memory_bytes": gpu.memory_total_bytes}
        for gpu in session.devices
        if gpu.parent_uuid is None
    ]
    session.close()
    return session.driver, found


def ask(function: Callable[..., Any], *arguments: Any) -> Any:
    """The library's answer, None where it has none."""
    import pynvml

    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


def as_text(name: bytes | str) -> str:
    """Old versions of nvidia-ml-py gave bytes."""
    return name.decode() if isinstance(name, bytes) else name


def gpus_aside(timeout_s: float = 10.0) -> tuple[str | None, list[dict[str, Any]]] | None:
    """As `gpus`, asked in a process of its own: what a library or a GPU does that hangs or crashes stays there."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None  # the usual case without a GPU, for which no process is needed
    try:
        told = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {CHECKOUT!r}); {ASIDE}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
        )
        driver, found = json.loads(told.stdout) or (None, None)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return None if found is None else (driver, found)
