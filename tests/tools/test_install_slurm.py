"""What make test does about Slurm: nothing, a line that says what to install, or apt-get, with no service started."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "install_slurm.py"
PACKAGES = "libpmix-dev munge shellcheck slurm-client slurmctld slurmd"


class Debian:
    """A machine on which nothing of it is installed, and the script on it."""

    def __init__(self, folder: Path, tool: ModuleType) -> None:
        self.tool, self.folder = tool, folder
        self.bin, self.daemons, self.libraries = folder / "bin", folder / "sbin", folder / "lib"
        self.policy, self.record = folder / "policy-rc.d", folder / "apt.txt"
        for path in (self.bin, self.daemons, self.libraries / "x86_64-linux-gnu"):
            path.mkdir(parents=True)

    def has(self, *commands: str) -> None:
        for command in commands:
            daemon = command in ("slurmctld", "slurmd", "munged")
            self.add((self.daemons if daemon else self.bin) / command, "exit 1")

    def has_pmix(self, name: str = "libpmix.so") -> None:
        (self.libraries / "x86_64-linux-gnu" / name).touch()

    def has_apt(self, script: str = ":") -> None:
        """An apt-get that records how it was called, and what a package asking for its service was told."""
        told = f"{self.policy} >/dev/null 2>&1"
        self.add(self.bin / "apt-get", f'{told}; echo "$? $DEBIAN_FRONTEND $@" >>{self.record}\n{script}')

    def add(self, path: Path, script: str) -> None:
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def calls(self) -> list[str]:
        return self.record.read_text().splitlines() if self.record.exists() else []


@pytest.fixture
def debian(tmp_path: Path, monkeypatch) -> Debian:
    spec = importlib.util.spec_from_file_location("install_slurm", SCRIPT)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    machine = Debian(tmp_path, tool)
    monkeypatch.setattr(tool, "DAEMONS", str(machine.daemons))
    monkeypatch.setattr(tool, "LIBRARIES", machine.libraries)
    monkeypatch.setattr(tool, "POLICY", machine.policy)
    monkeypatch.setenv("PATH", str(machine.bin))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return machine


def test_with_everything_there_nothing_is_done_or_said(debian: Debian, capsys) -> None:
    debian.has_apt()
    debian.has(*debian.tool.COMMANDS)
    debian.has_pmix()
    assert debian.tool.main() == 0
    assert debian.calls() == []
    assert capsys.readouterr() == ("", "")


def test_root_installs_what_is_missing_and_removes_nothing(debian: Debian, capsys) -> None:
    debian.has_apt()
    debian.has("slurmctld", "srun", "shellcheck")
    debian.has_pmix("libpmix.so.2")  # Open MPI's; Slurm does not look for it
    assert debian.tool.main() == 0
    packages = "libpmix-dev munge slurmd"
    assert debian.calls() == [
        "101 noninteractive -qq update",
        f"101 noninteractive -qq install -y --no-install-recommends --no-remove {packages}",
    ]
    printed = f"make test: apt-get install --no-install-recommends {packages}\n"
    assert capsys.readouterr() == (printed, "")
    assert not debian.policy.exists()


def test_an_answer_to_packages_that_was_there_stays_the_answer(debian: Debian) -> None:
    debian.has_apt()
    debian.add(debian.policy, "exit 104")
    before = debian.policy.stat()
    assert debian.tool.main() == 0
    assert [line.split()[0] for line in debian.calls()] == ["104", "104"]
    assert debian.policy.stat() == before


@pytest.mark.parametrize(("user", "apt"), [(1000, True), (0, False)])
def test_where_we_may_not_one_line_says_what_to_install(
    debian: Debian, monkeypatch, capsys, user: int, apt: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    if apt:
        debian.has_apt()
    assert debian.tool.main() == 0
    assert debian.calls() == []
    assert not debian.policy.exists()
    assert capsys.readouterr().err == (
        "make test: found no slurmctld, slurmd, srun, munged, shellcheck, libpmix.so: Slurm's tests will not run; "
        f"as root: apt-get install --no-install-recommends {PACKAGES}\n"
    )


@pytest.mark.parametrize(("verb", "calls"), [("update", 1), ("install", 2)])
def test_where_apt_fails_its_last_line_is_shown(debian: Debian, capsys, verb: str, calls: int) -> None:
    debian.has_apt(f"case $2 in {verb}) echo 'Err:1 x' >&2; echo 'E: no network' >&2; exit 100;; esac")
    assert debian.tool.main() == 0
    assert len(debian.calls()) == calls
    assert capsys.readouterr().err == f"make test: apt-get {verb} failed: E: no network\n"
    assert not debian.policy.exists()
