import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from launchers import child
from launchers.child import ranks_of, run_child, run_quietly
from training import checkpoint

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "distributed" / "tiny-resnet.toml"
KILLED = "rank 1 ended with signal SIGKILL (perhaps by the kernel, out of memory: see dmesg)"


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> object:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.05)
    return found


def is_alive(pid: int) -> bool:
    """By its state in /proc: a killed process may stay as a zombie, of which kill(pid, 0) says that it lives."""
    try:
        state = next(
            line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("State")
        )
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state.split()[1] not in ("Z", "X")


class Training:
    """A long run of two workers under launchers.train, each process of which bears its mark."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.mark = run_dir, f"{os.getpid()}-{run_dir}"
        command = ("torch-ddp", "--workers", "2", "--recipe", TINY, "--run-dir", run_dir)
        self.launcher = subprocess.Popen(
            [sys.executable, "-m", "launchers.train", *map(str, command), "--set", "steps=1000000"],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TRIMARAN_TEST": self.mark},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(self.has_rows, 90, "the first step")
        self.workers = {  # without the sampler, to which rank 0 passes its environment on
            int(p.environ()["RANK"]): p.pid
            for p in self.processes()
            if "RANK" in p.environ() and "telemetry.sampler" not in p.cmdline()
        }

    def has_rows(self) -> bool:
        metrics = self.run_dir / "metrics.jsonl"
        assert self.launcher.poll() is None, self.launcher.stderr.read()
        return metrics.exists() and metrics.stat().st_size > 0

    def processes(self) -> list[psutil.Process]:
        everything = psutil.process_iter(["environ"])
        return [p for p in everything if (p.info["environ"] or {}).get("TRIMARAN_TEST") == self.mark]

    def end(self) -> None:
        for process in self.processes():
            process.kill()
        self.launcher.communicate(timeout=30)


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Training]:
    started = Training(tmp_path / "run")
    yield started
    started.end()


@pytest.mark.timeout(200)
def test_a_launcher_killed_with_9_leaves_no_orphans(training: Training) -> None:
    pids = [process.pid for process in training.processes()]
    assert len(pids) >= 4  # the launcher, torchrun, two workers
    assert set(training.workers) == {0, 1}
    training.launcher.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in pids), 20, "the end of all workers")


@pytest.mark.timeout(200)
def test_a_worker_killed_with_9_is_named_and_ends_the_run(training: Training) -> None:
    os.kill(training.workers[1], signal.SIGKILL)
    _, errors = training.launcher.communicate(timeout=20)
    assert training.launcher.returncode == 1
    last = errors.splitlines()[-1]
    assert last == f"trimaran: torch-ddp failed: {KILLED}"
    status = json.loads((training.run_dir / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("failed", KILLED)
    assert status["step"] > 0
    assert not [process for process in training.processes() if is_alive(process.pid)]


@pytest.mark.timeout(200)
def test_a_warning_to_every_process_stops_the_run_with_a_checkpoint(training: Training) -> None:
    """As Slurm sends it: torchrun, which would end by it, is to outlive it."""
    assert sorted(process.pid for process in ranks_of(training.launcher.pid)) == sorted(
        training.workers.values()
    )
    for process in training.processes():
        process.send_signal(signal.SIGUSR1)
    _, errors = training.launcher.communicate(timeout=60)
    assert training.launcher.returncode == 75, errors
    assert "SIGUSR1: stopping at step " in errors
    assert not [process for process in training.processes() if is_alive(process.pid)]
    status = json.loads((training.run_dir / "status.json").read_text())
    assert status["state"] == "preempted"
    assert checkpoint.complete_steps(training.run_dir / "checkpoints") == [status["step"]]


def test_a_child_runs_in_its_environment_and_its_errors_are_shown_and_kept(
    tmp_path: Path, capfdbinary
) -> None:
    code = "import os, sys; print(os.getcwd()); sys.stderr.write(os.environ['GREETING']); sys.exit(75)"
    ended = run_child([sys.executable, "-c", code], {"GREETING": "good day"}, tmp_path)
    assert ended == (75, "good day")
    assert capfdbinary.readouterr() == (f"{tmp_path}\n".encode(), b"good day")


def test_only_the_end_of_long_errors_is_kept(capfdbinary) -> None:
    code = "import sys; sys.stderr.write('x' * 200_000 + 'end')"
    _, errors = run_child([sys.executable, "-c", code], {})
    assert len(errors) == child.TAIL_BYTES
    assert errors.endswith("xend")
    assert len(capfdbinary.readouterr().err) == 200_003


def test_what_a_child_started_ends_with_it(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open(sys.argv[1], 'w').write(str(child.pid))\n"
    )
    assert run_child([sys.executable, "-c", code, str(tmp_path / "pid")], {})[0] == 0
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_alive(pid), 10, "the end of the grandchild")


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        ("sys.exit(0)", (0, "")),
        ("sys.exit(75)", (0, "")),
        ("print('note'); print('trimaran: --x: found y'); sys.exit(2)", (2, "trimaran: --x: found y")),
        (
            "raise RuntimeError('gone')",
            (1, "the training process ended with exit code 1: RuntimeError: gone"),
        ),
        ("os.kill(os.getpid(), 9)", (-9, KILLED.replace("rank 1", "the training process"))),
    ],
)
def test_a_quiet_child_is_heard_only_if_it_fails(tmp_path: Path, capfd, ending: str, expected) -> None:
    assert run_quietly([sys.executable, "-c", f"import os, sys; {ending}"], {}, tmp_path) == expected
    assert capfd.readouterr() == ("", "")


def test_a_quiet_child_that_exits_2_without_a_word_is_explained(tmp_path: Path) -> None:
    code, why = run_quietly([sys.executable, "-c", "raise SystemExit(2)"], {}, tmp_path)
    assert code == 2
    assert "exit code 2" in why
