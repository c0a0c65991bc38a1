"""Whom a warning of pre-emption is passed on to."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.ending import ends

ROOT = Path(__file__).parents[2]
TELLS = """
import os, signal, sys
def tell(number, frame):
    os.write(1, signal.Signals(number).name.encode())
    sys.exit(3)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
    signal.signal(number, tell)
signal.pthread_sigmask(signal.SIG_UNBLOCK, range(1, 32))
print("ready", flush=True)
signal.pause()
"""
STARTS = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-m', 'distributed.fake']))"


@pytest.mark.parametrize(
    ("name", "number", "told"),
    [
        ("launcher", signal.SIGTERM, "SIGTERM"),
        ("launcher", signal.SIGUSR1, "SIGTERM"),  # nothing has begun
        ("launcher", signal.SIGINT, "SIGTERM"),
        ("mpirun", signal.SIGTERM, "SIGUSR2"),
        ("srun", signal.SIGUSR1, "SIGUSR2"),
        ("srun", signal.SIGINT, "SIGUSR2"),
        ("ranks", signal.SIGTERM, "SIGTERM"),
        ("ranks", signal.SIGUSR2, "SIGUSR2"),
        ("ranks", signal.SIGINT, "SIGINT"),
    ],
)
def test_a_warning_reaches_the_ranks_or_whoever_passes_it_on(tmp_path: Path, name, number, told) -> None:
    """The launcher called ranks knows no signals and has one rank."""
    (tmp_path / "distributed").mkdir()
    (tmp_path / "distributed" / "fake.py").write_text(TELLS)
    launcher = tmp_path / name
    launcher.write_text(f"#!{sys.executable}\n{STARTS if name == 'ranks' else TELLS}")
    launcher.chmod(0o755)
    code = (
        f"import sys; from launchers.child import run_child; sys.exit(run_child([{str(launcher)!r}], "
        f"{{'PYTHONPATH': {str(tmp_path)!r}}}, {str(tmp_path)!r})[0])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.communicate(timeout=30) == (told, None)
        assert process.returncode == 3


DEAF = """
import os, signal
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
    signal.signal(number, lambda number, frame: os.write(1, signal.Signals(number).name.encode() + b" "))
signal.pthread_sigmask(signal.SIG_UNBLOCK, range(1, 32))
print("ready", os.getpid(), flush=True)
while True:
    signal.pause()
"""


def test_a_second_signal_ends_even_ranks_that_heed_none(tmp_path: Path) -> None:
    """Within a second of the first it would be the same warning; here that second is shorter."""
    (tmp_path / "distributed").mkdir()
    (tmp_path / "distributed" / "fake.py").write_text(DEAF)
    code = (
        "import sys; from launchers import child; child.AGAIN_S = 0.3; "
        "child.run_child([sys.executable, '-c', sys.argv[2]], {'PYTHONPATH': sys.argv[1]}, sys.argv[1])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), STARTS],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        rank = int(process.stdout.readline().removeprefix("ready "))
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGTERM)  # the same warning: Slurm's to every process, say
        told = process.stdout.read(len("SIGUSR1 SIGTERM "))
        time.sleep(0.6)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        try:
            more, errors = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:  # else `with` would wait for both
            process.kill()
            os.kill(rank, signal.SIGKILL)
            raise
        assert process.returncode == 128 + signal.SIGINT
    assert (set(told.split()), set(more.split())) == ({"SIGUSR1", "SIGTERM"}, {"SIGINT"})
    assert errors == "trimaran: SIGINT again: ended at once; go on with --resume\n"
    assert ends(rank)
