"""NVML without a GPU: a library in C that the real pynvml loads, built by the tests and told what to answer.

    nvml = FakeNvml(tmp_path)
    nvml.control("count 2", "gpm on")
    process = subprocess.Popen(command, env={**os.environ, **nvml.environment()})
    nvml.control("count 2", "gpm on", "lost 1")  # the process sees that with its next call

The lines of a control file; what none of them says is as it is on one H200 that has no GPM:

    count N                      GPUs of the host (1)
    init CODE                    what nvmlInit returns: 9 no driver, 12 no library, 18 driver of another version
    lost GPU                     every call on it returns 15, GPU is lost
    hang GPU                     every call on it waits until the file no longer says so
    crash                        the next call, whatever it is, aborts the process
    mig GPU N                    MIG is on, with N instances (6 at most); NVML's index 1 is a gap, as after a removal
    gpm on                       the GPU has performance monitors
    unsupported NAME …           answered by 3, not supported, on every GPU
    error CODE NAME [GPU]        answered by CODE: 3 not supported, 4 no permission, 15 lost, 16 reset required, 999 …
    constant GAUGE VALUE [GPU]   always this value; its counter and its mean follow
    clock SECONDS                stands still at this CLOCK_MONOTONIC, for rates and means to the digit
    energy_reset SECONDS         at this CLOCK_MONOTONIC the energy counter begins at 0 again
    pcie_ms N                    how long nvmlDeviceGetPcieThroughput takes; 20 in the real one (0)
    pcie_bits N                  32: the byte counters of PCIe are unsigned int and wrap (64)
    log on                       `calls` tells which functions were called

A NAME is a function (nvmlDeviceGetPowerUsage), a field of nvmlDeviceGetFieldValues (field:185), or a gauge:
whatever function or field tells it then refuses. Gauges have the names of a telemetry row's columns, plus
memory_total_bytes and power_limit_mw; they are at the head of fake_nvml.c with the waves they follow.
"""

import atexit
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

LIBRARY = "libnvidia-ml.so.1"
SOURCES = [Path(__file__).with_name(name) for name in ("fake_nvml.c", "fake_nvml_control.h")]


class FakeNvml:
    """One control file, `directory`/nvml, for any number of processes.

    old_driver: as of 2022: no GPM, no nvmlDeviceGetTemperatureV, no nvmlDeviceGetCurrentClocksEventReasons (pynvml
    then raises NVMLError_FunctionNotFound), and no power or PCIe among the fields.

    Raises RuntimeError with the compiler's words if the library cannot be built.
    """

    def __init__(self, directory: Path, old_driver: bool = False) -> None:
        self._control = directory / "nvml"
        self._library_path = build(old_driver)
        self.control()

    def environment(self) -> dict[str, str]:
        """What a process needs in its environment, before it starts, to load this library."""
        return {"LD_LIBRARY_PATH": search_first(self._library_path), "FAKE_NVML": str(self._control)}

    def control(self, *lines: str) -> None:
        """Answer as these lines say from the next call on. Raises ValueError at a name that NVML has not."""
        known = set(re.findall(r"\w+", "".join(path.read_text() for path in SOURCES)))
        for line in lines:
            for name in re.findall(r"(?<!\S)[a-zA-Z_]\w*(?!\S)", line.partition("#")[0]):
                if name not in known:
                    raise ValueError(f"control line {line!r}: found {name}, which the fake library has not")
        temporary = self._control.with_name("nvml.tmp")
        temporary.write_text("\n".join(lines) + "\n")
        os.replace(temporary, self._control)  # a process reads the one or the other, never half of it

    def calls(self) -> list[str]:
        """Every call since `log on`, as "nvmlDeviceGetName 1": with the GPU, where it was on one."""
        return self._noted("log")

    def forbidden_calls(self) -> list[str]:
        """The calls that list processes: these hold a lock that a training step waits for. Needs no `log on`."""
        return self._noted("forbidden")

    def _noted(self, ending: str) -> list[str]:
        path = self._control.with_name(f"nvml.{ending}")
        return path.read_text().splitlines() if path.exists() else []


def without_library(directory: Path) -> dict[str, str]:
    """The environment of a process for which there is no NVML, even where the machine has one."""
    (directory / LIBRARY).touch()  # the loader finds it first, and it is no library
    return {"LD_LIBRARY_PATH": search_first(directory)}


def search_first(directory: Path) -> str:
    """LD_LIBRARY_PATH with `directory` at its head."""
    return ":".join(filter(None, [str(directory), os.environ.get("LD_LIBRARY_PATH")]))


@cache
def build(old_driver: bool) -> Path:
    """The directory with the library, built once a session and removed with it."""
    directory = Path(tempfile.mkdtemp(prefix="fake_nvml_"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    command = ["cc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-shared", "-fPIC"]
    command += [f"-Wl,-soname,{LIBRARY}", *(["-DOLD_DRIVER"] if old_driver else [])]
    command += ["-o", str(directory / LIBRARY), str(SOURCES[0]), "-lm", "-lpthread"]
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise RuntimeError("found no C compiler (cc), which the tests of NVML need; install gcc") from error
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{result.stderr}")
    return directory
