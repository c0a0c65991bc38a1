import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from launchers.environment import CHECKOUT

# A race between two programs that print a line every few milliseconds; each writes its number into a file.
RACE = """
import sys
from pathlib import Path
from benchmarks.contestant import Entry
from benchmarks.duel import Effort, duel

PROGRAM = '''
import json, os, sys, time
open(sys.argv[1], "w").write(str(os.getpid()))
for step in range(1, 10**6):
    time.sleep(0.002)
    print(json.dumps({"step": step, "step_time_s": 0.002}), flush=True)
'''

def make(name):
    return lambda folder: Entry(name, [sys.executable, "-c", PROGRAM, str(Path(sys.argv[1]) / name)], {})

duel(make("first"), make("second"), Effort(window_steps=1, windows=10**5))
"""
TIME_LIMIT_S = 60


def test_a_race_that_is_ended_leaves_no_contestant_behind(tmp_path: Path) -> None:
    race = subprocess.Popen(
        [sys.executable, "-c", RACE, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(CHECKOUT)}
    )
    deadline = time.monotonic() + TIME_LIMIT_S
    notes = [tmp_path / "first", tmp_path / "second"]
    while not all(note.exists() and note.read_text() for note in notes):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    race.send_signal(signal.SIGTERM)
    assert race.wait(TIME_LIMIT_S) == 128 + signal.SIGTERM
    assert [note.name for note in notes if psutil.pid_exists(int(note.read_text()))] == []
