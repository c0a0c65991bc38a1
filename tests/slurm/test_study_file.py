"""slurm/scaling_study.sbatch, run by bash with a program in place of launchers.train."""

import json
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.slurm.bench import ROOT, Bench

STUDY = ROOT / "slurm" / "scaling_study.sbatch"
TRAIN = f"""#!{sys.executable}
import json, os, pathlib, signal, sys, time
if sys.argv[1] == "-":
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
assert sys.argv[1:3] == ["-m", "launchers.train"], sys.argv
heard = []
signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
with open(os.environ["NOTES"] + "/trained", "a") as notes:
    notes.write(json.dumps(sys.argv[3:]) + "\\n")
strategy, run_dir = sys.argv[3], pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1])
name = run_dir.name
run_dir.mkdir(parents=True)
end = time.monotonic() + 20
while name == os.environ.get("WAITS") and not heard and time.monotonic() < end:
    time.sleep(0.02)
if name in os.environ.get("FAILS", "").split():
    sys.exit(1)
state = "preempted" if heard or name == os.environ.get("STOPS") else "completed"
def write(file, *rows):
    (run_dir / file).write_text("".join(json.dumps(row) + "\\n" for row in rows))
write("run.json", dict(recipe_id="x", recipe=dict(model=dict(family="resnet")), segments=[dict(oversubscribed=False)]))
write("metrics.jsonl", dict(step=1, loss=0.5, samples=24), dict(step=1, eval_loss=0.25, eval_accuracy=0.5))
write("timing-0.jsonl", dict(step_time_s=0.1), dict(step_time_s=0.1))
write("status.json", dict(state=state, step=1, reason=None))
sys.exit(75 if state == "preempted" else 0)
"""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    (tmp_path / "python").write_text(TRAIN)
    (tmp_path / "python").chmod(0o755)
    return bench


def run(bench: Bench, *arguments: str, **environment: str) -> tuple[int, str, str]:
    job = bench.start(STUDY, *arguments, PYTHON=str(bench.place / "python"), STUDY="s", **environment)
    output, errors = job.communicate(timeout=60)
    return job.returncode, output, errors


def trained(bench: Bench) -> list[list[str]]:
    path = bench.place / "trained"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def names(bench: Bench) -> list[str]:
    return [Path(words[words.index("--run-dir") + 1]).name for words in trained(bench)]


def test_each_strategy_runs_on_each_power_of_two_of_the_nodes(bench: Bench) -> None:
    code, output, errors = run(bench, "--recipe", "r $(touch X)", SLURM_NNODES="5")
    assert (code, errors) == (0, "")
    assert not (bench.place / "X").exists()
    strategies = ("torch-ddp", "torch-horovod", "tf-mirrored", "tf-horovod")
    assert names(bench) == [f"{strategy}-{2 * nodes}" for nodes in (1, 2, 4) for strategy in strategies]
    where = ["--launcher", "srun", "--nodes", "2", "--workers", "4"]
    rest = ["--run-dir", "studies/s/torch-ddp-4", "--accumulation", "2", "--recipe", "r $(touch X)"]
    assert trained(bench)[4] == ["torch-ddp", *where, *rest]
    assert sum("240 samples/s" in line for line in output.splitlines()) == 12


def test_a_single_strategy_is_the_base_and_has_one_worker(bench: Bench) -> None:
    code, output, _ = run(bench, STRATEGIES="torch-single torch-ddp")
    assert code == 0
    assert names(bench) == ["torch-single-1", "torch-ddp-2", "torch-ddp-4"]
    base = ["torch-single", "--workers", "1", "--run-dir", "studies/s/torch-single-1", "--accumulation", "4"]
    assert trained(bench)[0] == base
    assert sum("1.00" in line for line in output.splitlines()) == 3


def test_a_run_that_fails_does_not_end_the_study(bench: Bench) -> None:
    code, output, errors = run(bench, STRATEGIES="torch-ddp tf-mirrored", FAILS="torch-ddp-2 tf-mirrored-4")
    assert (code, errors) == (1, "trimaran: failed: torch-ddp-2 tf-mirrored-4\n")
    assert len(names(bench)) == 4
    assert sum("240 samples/s" in line for line in output.splitlines()) == 2
    assert not bench.requeued


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
def test_a_run_that_was_warned_ends_the_job_until_it_is_requeued(bench: Bench, state: str) -> None:
    code, output, errors = run(bench, STRATEGIES="torch-ddp tf-mirrored", STOPS="tf-mirrored-2", STATE=state)
    assert (code, errors, "samples/s" in output) == (75, "", False)
    assert bench.requeued == (state == "RUNNING")
    assert names(bench) == ["torch-ddp-2", "tf-mirrored-2"]
    code, output, _ = run(bench, STRATEGIES="torch-ddp tf-mirrored", SLURM_RESTART_COUNT="1")
    assert code == 0
    assert names(bench)[2:] == ["tf-mirrored-2", "torch-ddp-4", "tf-mirrored-4"]
    assert sum("240 samples/s" in line for line in output.splitlines()) == 4
    assert len(list((bench.place / "studies" / "s").glob("tf-mirrored-2.unfinished-*"))) == 1


@pytest.mark.parametrize("warning", ["SIGUSR2", "SIGTERM"])
def test_a_warning_to_the_shell_reaches_the_run(bench: Bench, warning: str) -> None:
    environment = {"PYTHON": str(bench.place / "python"), "STUDY": "s", "WAITS": "torch-ddp-2"}
    job = bench.start(STUDY, STRATEGIES="torch-ddp", **environment)
    give_up = time.monotonic() + 10
    while not trained(bench) and time.monotonic() < give_up:
        time.sleep(0.02)
    time.sleep(0.2)
    job.send_signal(signal.Signals[warning])
    _, errors = job.communicate(timeout=10)
    assert (job.returncode, errors, bench.requeued) == (75, "", True)
    assert names(bench) == ["torch-ddp-2"]


def test_a_study_runs_in_no_container(bench: Bench) -> None:
    code, _, errors = run(bench, CONTAINER="apptainer", IMAGE="x")
    assert (code, errors) == (2, "trimaran: CONTAINER: found apptainer, but a study runs in none; unset it\n")
