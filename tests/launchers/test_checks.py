import importlib.metadata
import json
import socket
import sys
from pathlib import Path

import pytest

from launchers import checks, prefixes
from training.problems import UsageError

MOUNTS = """/dev/vda1 / ext4 rw 0 0
proc /proc proc rw 0 0
server:/home /home nfs4 rw 0 0
/dev/vdb /home/local\\040disk xfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/tmp", "ext4"), ("/home/ann/runs", "nfs4"), ("/home/local disk/runs", "xfs"), ("/homework", "ext4")],
)
def test_a_folder_is_on_the_nearest_mount_above_it(folder: str, kind: str) -> None:
    assert checks.mounted_as(Path(folder), MOUNTS) == kind


def test_a_framework_that_is_missing_is_told_with_the_line_that_installs_it(monkeypatch) -> None:
    def version(package: str) -> str:
        if package == "tensorflow-cpu":
            return "2.21.0"
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert checks.framework("tensorflow") == checks.Check("tensorflow", "ok", "tensorflow-cpu 2.21.0")
    found = checks.framework("torch")
    assert (found.state, found.mend) == ("missing", "pip install -e '.[torch]'")


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("horovod: not installed; make horovod", "missing"),
        ("horovod: X was built for torch 2.0, found 2.1", "broken"),
    ],
)
def test_a_horovod_that_does_not_fit_is_broken(line: str, state: str, monkeypatch) -> None:
    def refuse(framework: str) -> Path:
        raise UsageError(line)

    monkeypatch.setattr(checks.horovod_setup, "check_build", refuse)
    found = checks.horovod("torch")
    assert (found.state, found.mend) == (state, "make horovod")
    assert found.found == line.removeprefix("horovod: ")


@pytest.mark.parametrize(("address", "state"), [("10.0.0.7", "ok"), ("127.0.1.1", "note"), (None, "note")])
def test_a_name_that_others_cannot_use_is_noted(address: str | None, state: str, monkeypatch) -> None:
    def resolve(name: str) -> str:
        if address is None:
            raise socket.gaierror("Name or service not known")
        return address

    monkeypatch.setattr(socket, "gethostbyname", resolve)
    found = checks.host_name()
    assert found.state == state
    assert bool(found.mend) == (state == "note")


@pytest.mark.parametrize(
    ("told", "visible", "state"),
    [
        (None, 0, "note"),
        (None, 2, "broken"),
        (("580.1", [{"name": "NVIDIA H100"}, {"name": "NVIDIA H100"}]), 1, "ok"),
    ],
)
def test_gpus_without_their_driver_are_broken(told, visible: int, state: str, monkeypatch) -> None:
    monkeypatch.setattr(checks, "gpus_aside", lambda: told)
    monkeypatch.setattr(checks, "visible_gpus", lambda: visible)
    found = checks.devices()
    assert found.state == state
    if state == "ok":
        assert found.found == "2 (NVIDIA H100), 1 visible, driver 580.1"


def test_no_mpirun_and_no_free_port_are_told(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checks.mpi().state == checks.slurm().state == "missing"

    def none_free() -> int:
        raise UsageError("no free port from 20000 to 32000 on 127.0.0.1; end what listens there")

    monkeypatch.setattr(prefixes, "free_port", none_free)
    assert checks.port().state == "broken"


LINE = {"ranks": 2, "bytes": 2**24, "median_s": 0.01, "bus_bytes_per_s": 1.5e9}


@pytest.mark.parametrize(
    ("code", "state", "found"),
    [
        (f"print('[0]<stdout>:' + {json.dumps(LINE)!r})", "ok", "2 ranks, 16 MiB, 1.50 GB/s bus bandwidth"),
        ("raise ValueError('no such device')", "broken", "exit code 1: ValueError: no such device"),
        ("pass", "broken", "exit code 0: it said nothing"),
        ("import time; time.sleep(60)", "broken", "did not end within 2 s"),
    ],
)
def test_a_probe_is_read_or_explained(code: str, state: str, found: str, monkeypatch) -> None:
    monkeypatch.setattr(checks, "PROBE_TIME_LIMIT_S", 2)
    result = checks.all_reduce("probe", [sys.executable, "-c", code])
    assert (result.state, result.found) == (state, found)
    assert bool(result.mend) == (state == "broken")
    assert result.figures == (LINE if state == "ok" else {})


def test_a_program_that_is_not_there_is_missing() -> None:
    assert checks.all_reduce("probe", ["/no/such/mpirun"]).state == "missing"
