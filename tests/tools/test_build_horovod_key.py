"""What a build of Horovod depends on, and what it is told."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

INGREDIENTS = ("horovod", "patch", "torch", "tensorflow", "python", "machine", "mpi", "mpi_flags", "compiler")


def test_a_key_names_the_frameworks_and_changes_with_every_ingredient(machine) -> None:
    ingredients = machine.tool.what_it_depends_on()
    assert set(ingredients) == {*INGREDIENTS, "cuda", "cmake", "switches"}
    assert None not in [ingredients[name] for name in INGREDIENTS]
    key = machine.tool.key(ingredients)
    assert key.startswith("torch2.13.0+cpu-tf2.21.0-")
    assert machine.tool.key(dict(reversed(ingredients.items()))) == key
    keys = {machine.tool.key({**ingredients, name: other}) for name in ingredients for other in ("x", None)}
    keys.discard(key)  # what is None already
    assert len(keys) == 2 * len(ingredients) - sum(value is None for value in ingredients.values())


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.versions.update({"torch": "2.13.0+cu126"}),
        lambda m: m.versions.update({"tensorflow-cpu": "2.22.0"}),
        lambda m: m.versions.update({"cmake": "4.1.0"}),
        lambda m: m.versions.pop("tensorflow-cpu"),
        lambda m: m.add("mpirun", "echo 'mpirun (Open MPI) 5.0.1'"),
        lambda m: m.add("mpicxx", "echo 'g++ -I/opt/mpi/include'"),
        lambda m: m.remove("mpicxx"),
        lambda m: m.add("c++", "echo 'g++ 14'"),
        lambda m: m.add("nvcc", "echo 'NVIDIA'; echo 'Build cuda_12.4'"),
        lambda m: m.tool.PATCH.write_text("--- a/y\n"),
        lambda m: m.monkeypatch.setattr("platform.python_version", lambda: "3.12.1"),
        lambda m: m.monkeypatch.setattr(sys, "abiflags", "t"),
        lambda m: m.monkeypatch.setattr("platform.machine", lambda: "aarch64"),
        lambda m: m.monkeypatch.setattr(m.tool, "VERSION", "0.29"),
        *(
            lambda m, name=name: m.monkeypatch.setenv(name, "/opt/nccl")
            for name in ("HOROVOD_NCCL_HOME", "HOROVOD_NCCL_LINK", "HOROVOD_BUILD_CUDA_CC_LIST")
        ),
    ],
)
def test_another_machine_gets_a_build_of_its_own(machine, change) -> None:
    assert machine.run() == ["build", "install", "prove"]
    change(machine)
    assert machine.run() == ["build", "install", "prove"]
    assert len([path for path in machine.tool.CACHE.iterdir() if path.is_dir()]) == 2


def test_what_makes_no_other_wheel_makes_no_other_key(machine, monkeypatch) -> None:
    before = machine.tool.what_it_depends_on()
    for name, value in {"HOROVOD_CYCLE_TIME": "2", "MAKEFLAGS": "-j9", "PIP_OPTIONS": "--pre"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)))
    machine.versions["numpy"] = "3"
    machine.add("c++", f"echo '{machine.line('c++')}'; echo and more")
    assert machine.tool.what_it_depends_on() == before


def test_switches_say_with_or_without_of_every_part(machine, monkeypatch) -> None:
    everything = {"torch": "2", "tensorflow": "2", "mpi": "Open MPI", "cuda": None}
    common = {"HOROVOD_WITH_GLOO": "1", "HOROVOD_WITHOUT_MXNET": "1", "CMAKE_POLICY_VERSION_MINIMUM": "3.5"}
    monkeypatch.setenv("HOROVOD_GPU_OPERATIONS", "MPI")  # says nothing where there is no CUDA
    assert machine.tool.switches(everything) == {
        **common,
        **{f"HOROVOD_WITH_{part}": "1" for part in ("PYTORCH", "TENSORFLOW", "MPI")},
    }
    for part, name in {"PYTORCH": "torch", "TENSORFLOW": "tensorflow", "MPI": "mpi"}.items():
        found = machine.tool.switches({**everything, name: None})
        assert found[f"HOROVOD_WITHOUT_{part}"] == "1"
        assert f"HOROVOD_WITH_{part}" not in found


def test_nccl_is_built_in_where_there_is_cuda(machine, monkeypatch) -> None:
    ingredients = {"torch": "2", "tensorflow": None, "mpi": None, "cuda": "Build cuda_12.4"}
    machine.add("../cuda/bin/nvcc", "echo 'NVIDIA'; echo 'Build cuda_12.4'")
    home = machine.bin.parent / "cuda"
    monkeypatch.setenv("CUDA_HOME", str(home))
    found = machine.tool.switches(ingredients)
    assert found["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    assert Path(found["HOROVOD_CUDA_HOME"]) == home
    assert machine.tool.what_it_depends_on()["cuda"] == "Build cuda_12.4"
    monkeypatch.setattr(machine.tool, "has_cuda_framework", lambda: False)
    assert machine.tool.what_it_depends_on()["cuda"] is None
    machine.add("nvcc", "echo other")
    assert machine.tool.nvcc() == str(machine.bin / "nvcc")
    monkeypatch.setenv("HOROVOD_CUDA_HOME", str(home))  # said for Horovod alone
    assert machine.tool.nvcc() == f"{home}/bin/nvcc"
    monkeypatch.setenv("HOROVOD_GPU_OPERATIONS", "MPI")
    assert machine.tool.switches(ingredients)["HOROVOD_GPU_OPERATIONS"] == "MPI"


@pytest.mark.parametrize(
    ("line", "expected"),
    [("cuda: Optional[str] = None", False), ("cuda: Optional[str] = '12.6'", True), ("cuda = '12'", True)],
)
def test_a_torch_for_gpus_is_known_without_importing_it(
    tmp_path: Path, monkeypatch, tool: ModuleType, line: str, expected: bool
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError")
    (tmp_path / "torch" / "version.py").write_text(f"__version__ = '2'\n{line}\n")
    spec = SimpleNamespace(origin=str(tmp_path / "torch" / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(tool, "package_version", lambda names: None)
    assert tool.has_cuda_framework() is expected
