"""Whom a warning of pre-emption is passed on to."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

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
        ("launcher", signal.SIGINT, "SIGINT"),
        ("mpirun", signal.SIGTERM, "SIGUSR2"),
        ("srun", signal.SIGUSR1, "SIGUSR2"),
        ("srun", signal.SIGINT, "SIGINT"),
        ("ranks", signal.SIGTERM, "SIGTERM"),
        ("ranks", signal.SIGUSR2, "SIGUSR2"),
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
