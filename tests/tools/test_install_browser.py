"""What make test does about a browser: nothing, a line that says what to install, or apt-get."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from tests import browser

SCRIPT = Path(__file__).parents[2] / "tools" / "install_browser.py"


@pytest.fixture
def tool(tmp_path: Path, monkeypatch) -> ModuleType:
    """The script, on a machine with nothing on PATH."""
    spec = importlib.util.spec_from_file_location("install_browser", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return module


def add(folder: Path, name: str, script: str = ":") -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_it_knows_the_browsers_that_the_tests_start(tool: ModuleType) -> None:
    assert tool.PROGRAMS == browser.PROGRAMS


def test_with_a_browser_there_nothing_is_done_or_said(tool: ModuleType, tmp_path: Path, capsys) -> None:
    add(tmp_path, "google-chrome", "exit 1")
    add(tmp_path, "apt-get", "exit 1")
    assert tool.main() == 0
    assert capsys.readouterr() == ("", "")


def test_root_installs_it_and_removes_nothing(tool: ModuleType, tmp_path: Path, capsys) -> None:
    add(tmp_path, "apt-get", f'echo "$DEBIAN_FRONTEND $@" >>{tmp_path}/calls')
    assert tool.main() == 0
    assert (tmp_path / "calls").read_text().splitlines() == [
        "noninteractive -qq update",
        "noninteractive -qq install -y --no-install-recommends --no-remove chromium",
    ]
    assert capsys.readouterr() == ("make test: apt-get install --no-install-recommends chromium\n", "")


def test_a_failing_apt_is_told_in_one_line(tool: ModuleType, tmp_path: Path, capsys) -> None:
    add(tmp_path, "apt-get", "echo first >&2; echo 'E: no network' >&2; exit 100")
    assert tool.main() == 0
    assert capsys.readouterr().err == "make test: apt-get update failed: E: no network\n"


@pytest.mark.parametrize("has_apt, user", [(True, 1000), (False, 0)])
def test_who_may_not_is_told_what_to_install(
    tool: ModuleType, tmp_path: Path, monkeypatch, capsys, has_apt: bool, user: int
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    if has_apt:
        add(tmp_path, "apt-get", f"touch {tmp_path}/calls")
    assert tool.main() == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "as root: apt-get install --no-install-recommends chromium" in error
    assert not (tmp_path / "calls").exists()
