"""NVML's answers, from a module that stands in for pynvml: its names are those of nvidia-ml-py."""

import sys
import types

import pytest

from telemetry import nvml


class NVMLError(Exception):
    pass


def refuse(*_: object) -> None:
    raise NVMLError


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Two GPUs; `stopped` counts the calls that give the library back."""
    fake = types.SimpleNamespace(
        NVMLError=NVMLError,
        stopped=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: "NVIDIA H200",
        nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}",
        nvmlDeviceGetMemoryInfo=lambda handle: types.SimpleNamespace(total=1000 + handle),
        nvmlSystemGetDriverVersion=lambda: "580.1",
    )

    def shut_down() -> None:
        fake.stopped += 1

    fake.nvmlShutdown = shut_down
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_each_gpu_is_named(library: types.SimpleNamespace) -> None:
    driver, devices = nvml.gpus() or ("", [])
    assert driver == "580.1"
    assert devices == [
        {"index": 0, "name": "NVIDIA H200", "uuid": "GPU-0", "memory_bytes": 1000},
        {"index": 1, "name": "NVIDIA H200", "uuid": "GPU-1", "memory_bytes": 1001},
    ]
    assert library.stopped == 1


def test_a_gpu_that_hides_its_memory_is_still_named(library: types.SimpleNamespace) -> None:
    library.nvmlDeviceGetMemoryInfo = refuse
    _, devices = nvml.gpus() or ("", [])
    assert [device["memory_bytes"] for device in devices] == [None, None]


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetUUID"])
def test_where_nvml_does_not_answer_the_gpus_are_unknown(library: types.SimpleNamespace, call: str) -> None:
    setattr(library, call, refuse)
    assert nvml.gpus() is None
    assert library.stopped == (0 if call == "nvmlInit" else 1)


def test_without_the_package_the_gpus_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.gpus() is None
