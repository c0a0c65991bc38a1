"""What make horovod does: when it builds, from what, and what it says where it cannot."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest


def test_a_second_run_asks_for_versions_and_does_nothing(machine, monkeypatch) -> None:
    asked = []
    real = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda command, **k: asked.append(command[1:]) or real(command, **k)
    )
    assert machine.run() == ["build", "install", "prove"]
    asked.clear()
    assert machine.run() == []
    assert {word for words in asked for word in words} == {"--version", "-show"}
    # In another environment the wheel is there already.
    machine.tool.STAMP.unlink()
    assert machine.run() == ["install", "prove"]
    machine.versions.pop("horovod")  # somebody removed it
    assert machine.run() == ["install", "prove"]
    machine.versions["horovod"] = machine.tool.VERSION
    machine.tool.STAMP.write_text('{"horovod": ')  # a full disk
    assert machine.run() == ["install", "prove"]
    assert json.loads(machine.tool.STAMP.read_text()) == machine.built_from


@pytest.mark.parametrize("step", ["install", "prove", "wheel", "download"])
def test_a_step_that_fails_is_one_line_and_is_done_again_next_time(
    machine, monkeypatch, capsys, step: str
) -> None:
    failure = subprocess.CalledProcessError(1, ["python", "-m", "pip", step, Path("x")])

    def fail(*arguments: object, **keywords: object) -> None:
        if step == "prove" or arguments[0] == step:
            raise failure

    if step in ("wheel", "download"):
        monkeypatch.setattr(machine.tool, "build", lambda *arguments: fail(step))
    monkeypatch.setattr(machine.tool, "prove" if step == "prove" else "pip", fail)
    machine.tool.STAMP.write_text("{}")  # of another build, part of which may be left
    for _ in range(2):
        assert machine.tool.main() == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"make horovod: python -m pip {step} x: failed; ")
        assert line.endswith("build.log")
        assert not machine.tool.STAMP.exists()


def test_without_frameworks_there_is_nothing_to_build_for(machine, capsys) -> None:
    del machine.versions["torch"]
    assert machine.run() == ["build", "install", "prove"]
    assert machine.built_from["torch"] is None
    del machine.versions["tensorflow-cpu"]
    assert machine.tool.main() == 2
    assert capsys.readouterr().err.startswith("make horovod: found neither torch nor TensorFlow; ")


# What the system lacks ------------------------------------------------------------------------------


def test_without_mpi_a_user_reads_what_to_install_and_gets_a_build_without(machine, capsys) -> None:
    machine.remove("mpirun", "mpicxx")
    machine.add("apt-get", f"touch {machine.bin.parent}/called")
    assert machine.run() == ["build", "install", "prove"]
    assert machine.built_from["mpi"] is machine.built_from["mpi_flags"] is None
    assert "HOROVOD_WITHOUT_MPI=1" in machine.built_from["switches"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "make horovod: found no mpirun, mpicxx: built without MPI; as root: "
        "apt-get install --no-install-recommends libopenmpi-dev openmpi-bin"
    )
    assert not (machine.bin.parent / "called").exists()


@pytest.mark.parametrize(("program", "package"), [("c++", "g++"), ("make", "make"), ("patch", "patch")])
def test_without_a_compiler_a_user_reads_what_to_install_and_why_it_stops(
    machine, capsys, program: str, package: str
) -> None:
    machine.remove(program)
    assert machine.tool.main() == 2
    assert machine.done == []
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"make horovod: found no {program}: built not at all; ")
    assert first.endswith(f"as root: apt-get install --no-install-recommends {package}")
    assert second.startswith(f"make horovod: found no {program}; Horovod is not built")


def test_root_installs_what_is_missing(machine, monkeypatch, capsys) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    record, kept = machine.bin.parent / "apt.txt", machine.bin.parent / "kept"
    kept.mkdir()
    for name in ("mpirun", "mpicxx", "make"):
        shutil.move(machine.bin / name, kept)
    bring = f"case $2 in install) /bin/cp {kept}/* {machine.bin};; esac"
    machine.add("apt-get", f'echo "$DEBIAN_FRONTEND $@" >> {record}\n{bring}')
    assert machine.run() == ["build", "install", "prove"]
    assert machine.built_from["mpi"] == machine.line("mpirun")
    assert record.read_text().splitlines() == [  # make came along with the first
        "noninteractive -qq update",
        "noninteractive -qq install -y --no-install-recommends libopenmpi-dev openmpi-bin",
    ]
    shown = capsys.readouterr()
    assert "apt-get install --no-install-recommends libopenmpi-dev openmpi-bin" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize("verb", ["update", "install"])
def test_where_apt_fails_the_last_line_that_it_said_is_shown(machine, monkeypatch, capsys, verb: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    machine.remove("mpirun")
    machine.add(
        "apt-get", f"case $2 in {verb}) echo 'Err:1 x' >&2; echo 'E: no network' >&2; exit 100;; esac"
    )
    assert machine.run() == ["build", "install", "prove"]
    assert capsys.readouterr().err == f"make horovod: apt-get {verb} failed: E: no network\n"


# Building -------------------------------------------------------------------------------------------


@pytest.fixture
def archive(machine, monkeypatch) -> Path:
    """A release of one file in the cache, which the real steps unpack and the patch of nothing fits."""
    tool = machine.tool
    source = machine.bin.parent / f"horovod-{tool.VERSION}"
    source.mkdir()
    (source / "setup.py").touch()
    tool.CACHE.mkdir()
    path = shutil.make_archive(str(tool.CACHE / source.name), "gztar", source.parent, source.name)
    monkeypatch.setattr(tool, "SHA256", hashlib.sha256(Path(path).read_bytes()).hexdigest())
    monkeypatch.setattr(tool, "build", machine.real_build)
    return Path(path)


def test_an_archive_of_another_digest_is_refused(machine, archive: Path, capsys) -> None:
    archive.write_bytes(archive.read_bytes() + b"\n")
    assert machine.tool.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert line.startswith(
        f"make horovod: {archive}: SHA-256 is {found}, expected {machine.tool.SHA256}; delete"
    )
    assert machine.done == []


def test_a_build_leaves_its_wheel_and_what_it_was_built_from(machine, archive: Path, monkeypatch) -> None:
    seen = {}

    def pip(*words: str, **keywords) -> None:
        if words[0] == "wheel":
            seen.update(keywords["env"])
            assert (Path(words[-1]) / "setup.py").exists()
            out = Path(words[words.index("-w") + 1])
            out.mkdir()
            (out / "horovod-0.28.1-cp311-cp311-linux_x86_64.whl").write_text("wheel")
            seen["inode"] = next(out.iterdir()).stat().st_ino
        machine.done.append(words)

    monkeypatch.setattr(machine.tool, "pip", pip)
    machine.add("patch", f'echo "$@" > {machine.bin.parent}/patched')
    assert machine.tool.main() == 0
    (wheel,) = machine.tool.CACHE.rglob("*.whl")
    assert wheel.read_text() == "wheel"
    assert wheel.stat().st_ino == seen["inode"]  # moved: a copy is half there for a while
    assert machine.done[1] == ("install", "--force-reinstall", "--no-deps", str(wheel))
    assert json.loads((wheel.parent / "built-from.json").read_text()) == machine.tool.what_it_depends_on()
    assert not list(machine.tool.CACHE.glob("building-*"))
    assert {"-p1", "--fuzz=0", str(machine.tool.PATCH)} < set(
        (machine.bin.parent / "patched").read_text().split()
    )
    assert seen["HOROVOD_WITH_MPI"] == seen["HOROVOD_WITH_PYTORCH"] == "1"
    assert seen["MAKEFLAGS"].startswith("-j")
    assert seen["HOROVOD_CMAKE"].startswith(sys.prefix)
    assert {"--no-deps", "--no-build-isolation"} < set(machine.done[0])


@pytest.mark.parametrize("ending", [KeyboardInterrupt, subprocess.CalledProcessError(1, ["patch"])])
def test_a_build_that_was_interrupted_leaves_no_wheel(machine, archive: Path, monkeypatch, ending) -> None:
    def pip(*words: str, **keywords: object) -> None:
        out = Path(words[words.index("-w") + 1])
        out.mkdir()
        (out / "horovod-0.28.1-cp311-cp311-linux_x86_64.whl").write_text("half a wh")
        raise ending

    monkeypatch.setattr(machine.tool, "pip", pip)
    with pytest.raises((KeyboardInterrupt, subprocess.CalledProcessError)):
        machine.tool.build(machine.tool.what_it_depends_on(), machine.tool.CACHE / "key" / "horovod.whl")
    assert sorted(path.name for path in machine.tool.CACHE.rglob("*")) == sorted(["build.log", archive.name])


def test_each_extension_is_loaded_in_a_process_of_its_own(machine, monkeypatch) -> None:
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, **keywords: commands.append((command, keywords)))
    machine.real_prove({"torch": "2", "tensorflow": None, "mpi": None})
    machine.real_prove({"torch": "2", "tensorflow": "2", "mpi": "x"})
    codes = [command[-1] for command, _ in commands]
    assert [code.split(" as ")[0] for code in codes] == [
        f"import horovod.{n}" for n in ("torch", "torch", "tensorflow")
    ]
    assert all(keywords == {"check": True} for _, keywords in commands)
    for code, wanted in zip(codes, (0, 1, 1), strict=True):
        for gloo, mpi in ((1, 0), (1, 1), (0, wanted)):
            hvd = SimpleNamespace(gloo_built=lambda gloo=gloo: gloo, mpi_built=lambda mpi=mpi: mpi)
            proof = code.partition("; ")[2]
            if gloo and mpi == wanted:
                exec(proof, {"hvd": hvd})
            else:
                with pytest.raises(AssertionError):
                    exec(proof, {"hvd": hvd})


def test_pip_options_reach_the_one_command_that_fetches(tool: ModuleType, monkeypatch) -> None:
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, **keywords: commands.append(command[3:]))
    monkeypatch.setenv("PIP_OPTIONS", "--extra-index-url https://x")
    tool.pip("download", "y")
    tool.pip("wheel", "y")
    assert commands == [
        ["download", "--quiet", "--extra-index-url", "https://x", "y"],
        ["wheel", "--quiet", "y"],
    ]
