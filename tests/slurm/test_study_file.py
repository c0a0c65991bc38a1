"""slurm/scaling_study.sbatch, run by bash with a program in place of scaling.study."""

import json
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.slurm.bench import ROOT, Bench

STUDY = ROOT / "slurm" / "scaling_study.sbatch"
PROGRAM = f"""#!{sys.executable}
import json, os, signal, sys, time
assert sys.argv[1:3] == ["-m", "scaling.study"], sys.argv
heard = []
signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
with open(os.environ["NOTES"] + "/studied", "a") as notes:
    notes.write(json.dumps(sys.argv[3:]) + "\\n")
end = time.monotonic() + 20
while "WAITS" in os.environ and not heard and time.monotonic() < end:
    time.sleep(0.02)
sys.exit(75 if heard else int(os.environ.get("CODE", "0")))
"""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    (tmp_path / "python").write_text(PROGRAM)
    (tmp_path / "python").chmod(0o755)
    return bench


def run(bench: Bench, *arguments: str, **environment: str) -> tuple[int, str]:
    job = bench.start(STUDY, *arguments, PYTHON=str(bench.place / "python"), **environment)
    _, errors = job.communicate(timeout=60)
    return job.returncode, errors


def studied(bench: Bench) -> list[list[str]]:
    path = bench.place / "studied"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_it_measures_on_each_power_of_two_of_the_nodes(bench: Bench) -> None:
    assert run(bench, "--recipes", "r $(touch X)", SLURM_NNODES="5") == (0, "")
    assert not (bench.place / "X").exists()
    sizes = ["--nodes", "1,2,4", "--workers", "2", "--workers-per-node", "2"]
    assert studied(bench) == [["--name", "name-7", *sizes, "--recipes", "r $(touch X)"]]


def test_the_caller_may_say_which(bench: Bench) -> None:
    assert run(bench, STUDY="mine", NODES="4", WORKERS="1,2", STRATEGIES="torch-ddp,tf-mirrored") == (0, "")
    sizes = ["--nodes", "4", "--workers", "1,2", "--workers-per-node", "2"]
    assert studied(bench) == [["--name", "mine", *sizes, "--strategies", "torch-ddp,tf-mirrored"]]


def test_a_study_that_fails_is_not_run_again(bench: Bench) -> None:
    assert run(bench, CODE="1") == (1, "")
    assert run(bench, CODE="75") == (75, "")  # nobody had warned it
    assert not bench.requeued


@pytest.mark.parametrize("warning", ["SIGUSR2", "SIGTERM"])
@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
def test_a_warning_to_the_shell_ends_the_study_until_it_is_requeued(
    bench: Bench, warning: str, state: str
) -> None:
    job = bench.start(STUDY, PYTHON=str(bench.place / "python"), WAITS="1", STATE=state)
    give_up = time.monotonic() + 10
    while not studied(bench) and time.monotonic() < give_up:
        time.sleep(0.02)
    job.send_signal(signal.Signals[warning])
    _, errors = job.communicate(timeout=10)
    assert (job.returncode, errors, bench.requeued) == (75, "", state == "RUNNING")


def test_a_study_runs_in_no_container(bench: Bench) -> None:
    code, errors = run(bench, CONTAINER="apptainer", IMAGE="x")
    assert (code, errors) == (2, "trimaran: CONTAINER: found apptainer, but a study runs in none; unset it\n")
