"""The script as a module, and a machine whose programs are all replaced: nothing is compiled or fetched."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    "c++": "c++ (Debian 12.2.0) 12.2.0",
    "make": "GNU Make 4.3",
    "patch": "GNU patch 2.7.6",
    "mpirun": "mpirun (Open MPI) 4.1.4",
    "mpicxx": "g++ -I/usr/include/openmpi -lmpi",
}
VERSIONS = {"torch": "2.13.0+cpu", "tensorflow-cpu": "2.21.0", "cmake": "4.0.1"}


def load() -> ModuleType:
    """The script as a module of its own, since tools/ is no package."""
    spec = importlib.util.spec_from_file_location("build_horovod", ROOT / "tools" / "build_horovod.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Machine:
    """A machine with these programs on PATH and these packages installed, and the script on it."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.bin, self.monkeypatch, self.versions = folder / "bin", monkeypatch, dict(VERSIONS)
        self.bin.mkdir()
        for name, line in PROGRAMS.items():
            self.add(name, f"echo '{line}'")
        self.done: list[tuple[str, ...]] = []
        self.tool = load()
        self.real_build, self.real_prove = self.tool.build, self.tool.prove
        for name, value in {
            "CACHE": folder / "cache",
            "STAMP": folder / "horovod.json",
            "PATCH": folder / "horovod.patch",
            "package_version": lambda names: next(
                (self.versions.get(n) for n in names if n in self.versions), None
            ),
            "has_cuda_framework": lambda: True,
            "pip": lambda *words, **_: self.done.append(words[:1]),
            "prove": lambda ingredients: self.done.append(("prove",)),
            "build": self.build,
        }.items():
            monkeypatch.setattr(self.tool, name, value)
        self.tool.PATCH.write_text("--- a/x\n+++ b/x\n")
        monkeypatch.setenv("PATH", str(self.bin))
        for name in [name for name in os.environ if name.startswith(("HOROVOD_", "CUDA_", "PIP_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setattr(os, "geteuid", lambda: 1000)

    def build(self, ingredients: dict, wheel: Path) -> None:
        self.done.append(("build",))
        self.built_from = ingredients
        wheel.parent.mkdir(parents=True)
        wheel.touch()
        self.versions["horovod"] = self.tool.VERSION

    def add(self, program: str, script: str) -> None:
        path = self.bin / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def line(self, program: str) -> str:
        """What the program says of its version."""
        return PROGRAMS[program]

    def remove(self, *programs: str) -> None:
        for program in programs:
            (self.bin / program).unlink()

    def run(self) -> list[str]:
        """What one make horovod did."""
        self.done.clear()
        assert self.tool.main() == 0
        return [word for words in self.done for word in words]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def tool() -> ModuleType:
    return load()
