import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from telemetry import nvml
from telemetry.hardware import hardware, versions
from tests.telemetry.fake_nvml import FakeNvml

ROOT = Path(__file__).parents[2]


def test_versions_name_the_packages_without_importing_them() -> None:
    code = """
import json, sys
from telemetry.hardware import hardware, versions
hardware()
found = versions()
imported = [name for name in found if name in sys.modules]
print(json.dumps([found, imported]))
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    found, imported = json.loads(output)
    assert imported == []
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["numpy"] == metadata.version("numpy")
    assert found["tensorflow"].startswith("2.")


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert versions()["numpy"] is None


def test_a_build_of_tensorflow_under_another_name_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_the_cpu_build(name: str) -> str:
        if name != "tensorflow-cpu":
            raise metadata.PackageNotFoundError(name)
        return "2.99"

    monkeypatch.setattr(metadata, "version", only_the_cpu_build)
    assert versions()["tensorflow"] == "2.99"


def test_hardware_is_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "gpus_aside", lambda: None)
    found = hardware()
    assert json.loads(json.dumps(found)) == found
    assert found["cpu_cores_usable"] == len(os.sched_getaffinity(0)) <= found["cpu_cores"]
    with open("/proc/meminfo") as file:
        kibibytes = int(file.readline().split()[1])
    assert found["memory_bytes"] == kibibytes * 1024
    assert found["gpus"] is None
    assert found["driver"] is None


def test_hardware_lists_the_gpus_that_nvml_names(tmp_path: Path) -> None:
    """And outlives a library that crashes, or a GPU that hangs, at the first question."""
    code = "import json; from telemetry.hardware import hardware; print(json.dumps(hardware()))"
    library = FakeNvml(tmp_path)
    environment = {**os.environ, **library.environment(), "PYTHONPATH": str(ROOT)}

    def found() -> dict:
        told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
        return json.loads(told.stdout)

    library.control("count 2")
    seen = found()
    assert seen["driver"]
    assert [gpu["index"] for gpu in seen["gpus"]] == [0, 1]
    library.control("crash")
    assert (found()["driver"], found()["gpus"]) == (None, None)


def test_a_gpu_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvml(tmp_path)
    library.control("hang 0")
    code = "from telemetry.nvml import gpus_aside; print(gpus_aside(timeout_s=1.0))"
    environment = {**os.environ, **library.environment(), "PYTHONPATH": str(ROOT)}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=30)
    assert told.stdout.decode().strip() == "None"
