import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launchers import checks, doctor
from launchers.checks import Check
from launchers.commands import LAUNCHERS

EVERYTHING = {
    *("torch", "tensorflow", "Horovod for torch", "Horovod for tensorflow", "MPI"),
    *("all-reduce of torch over gloo", "all-reduce of tensorflow"),
    *(f"all-reduce of Horovod for {name} by mpirun" for name in ("torch", "tensorflow")),
}


def found(*, without: str = "") -> list[Check]:
    return [Check(name, "broken" if name == without else "ok", "") for name in sorted(EVERYTHING)]


@pytest.mark.parametrize(
    ("broken", "lost"),
    [
        ("", set()),
        ("torch", {"torch-single", "torch-ddp", "torch-horovod"}),
        ("Horovod for torch", {"torch-horovod"}),
        ("all-reduce of torch over gloo", {"torch-ddp"}),
        ("all-reduce of Horovod for tensorflow by mpirun", {"tf-horovod"}),
        ("MPI", set()),
    ],
)
def test_a_strategy_can_run_if_all_that_it_needs_is_ok(broken: str, lost: set[str]) -> None:
    able = {
        strategy for strategy in doctor.NEEDS if doctor.can_run(strategy, found(without=broken), quick=False)
    }
    assert able == set(LAUNCHERS) - lost


def test_only_what_is_present_is_probed() -> None:
    assert doctor.probes(set()) == []
    names = [name for name, _ in doctor.probes({"torch", "Horovod for torch"})]
    assert names == ["all-reduce of torch over gloo", "all-reduce of Horovod for torch by horovodrun"]
    assert (
        len(doctor.probes({"torch", "tensorflow", "Horovod for torch", "Horovod for tensorflow", "MPI"})) == 6
    )


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("note", 0), ("missing", 0), ("broken", 1)])
def test_only_what_is_broken_is_a_failure(launch, monkeypatch, state: str, code: int) -> None:
    monkeypatch.setattr(checks, "mpi", lambda: Check("MPI", state, "as it is", "mend it"))
    ended = launch(doctor, "--quick")
    assert ended.code == code
    (line,) = [line for line in ended.output if " MPI: as it is" in line]
    assert state in line.lower()
    assert ended.output[ended.output.index(line) + 1].strip() == "mend it"
    assert ended.output[-1].startswith(("can run here", "cannot run here"))


@pytest.mark.horovod
def test_the_real_thing_reduces_over_every_runtime() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "launchers.doctor", "--json"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=280,
    )
    content = json.loads(ended.stdout)
    assert ended.returncode == 0, content
    assert content["strategies"] == dict.fromkeys(LAUNCHERS, True)
    probes = [check for check in content["checks"] if check["name"].startswith("all-reduce")]
    assert len(probes) == 6
    for probe in probes:
        assert probe["figures"]["ranks"] == 2
        assert probe["figures"]["bus_bytes_per_s"] > 1e6
