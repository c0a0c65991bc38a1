import subprocess
import sys
from pathlib import Path

import pytest

from training import claim
from training.problems import UsageError

HOLD = (
    "import pathlib, sys, training.claim as c; c.hold(pathlib.Path(sys.argv[1])); print(flush=True); input()"
)


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that has claimed the directory `run`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n"
    yield process
    process.kill()
    process.communicate()


def test_one_process_holds_a_directory_and_is_named(holder: subprocess.Popen, tmp_path: Path) -> None:
    for take in (claim.check, claim.hold):
        with pytest.raises(UsageError, match=rf"another start trains there \(host \S+, pid {holder.pid}\)"):
            take(tmp_path / "run")


def test_kill_minus_9_gives_it_back(holder: subprocess.Popen, tmp_path: Path) -> None:
    holder.kill()
    holder.wait()
    claim.check(tmp_path / "run")
    claim.hold(tmp_path / "run")
    claim.hold(tmp_path / "run")


def test_a_look_makes_nothing(tmp_path: Path) -> None:
    claim.check(tmp_path / "run")
    assert not (tmp_path / "run").exists()
