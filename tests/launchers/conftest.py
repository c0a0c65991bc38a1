"""Launchers called as their users call them, in this process: nothing may start before a mistake is found."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import pytest

from distributed import devices, topology
from launchers import commands, nodes, prefixes
from training.process import guarded


@dataclass(frozen=True)
class Ended:
    """The exit code, and the lines on standard output and standard error."""

    code: int
    output: list[str]
    errors: list[str]


class Exited(BaseException):
    """In place of os._exit, which would take pytest along."""

    def __init__(self, code: int) -> None:
        self.code = code


def leave(code: int) -> None:
    raise Exited(code)


@pytest.fixture
def no_process(monkeypatch) -> None:
    """Fail where a process is started."""

    def refuse(command, *_, **__):
        raise AssertionError(f"started {command}")

    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.fixture
def launch(monkeypatch, capfd) -> Callable[..., Ended]:
    """Call a module's main with these arguments."""
    for module in (topology, devices, nodes, prefixes, commands):
        monkeypatch.setattr(module, "visible_gpus", lambda *_: 0)
    for name in set(os.environ) & {
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "TRIMARAN_LAUNCHER",
    }:
        monkeypatch.delenv(name)

    monkeypatch.setattr(os, "_exit", leave)

    def call(module: ModuleType, *arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        capfd.readouterr()
        try:
            code = guarded(module.main)
        except Exited as ended:
            code = ended.code
        shown = capfd.readouterr()
        return Ended(code, shown.out.splitlines(), shown.err.splitlines())

    return call
