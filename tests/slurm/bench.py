"""Batch files run by bash as Slurm would run them, with programs in place of srun and scontrol that take notes."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SRUN = f"""#!{sys.executable}
import json, os, pathlib, signal, sys, time
heard = []
signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
told = pathlib.Path(os.environ["NOTES"])
(told / "srun.json").write_text(json.dumps([sys.argv[1:], dict(os.environ)]))
end = time.monotonic() + 20
while "WAITS" in os.environ and not heard and time.monotonic() < end:
    time.sleep(0.02)
time.sleep(float(os.environ.get("STAYS_S", "0")))
(told / "heard").write_text(str(len(heard)))
run_dir = pathlib.Path(sys.argv[len(sys.argv) - sys.argv[::-1].index("--run-dir")])
if "STATUS" in os.environ:
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "status.json").write_text(os.environ["STATUS"])
sys.exit(int(os.environ.get("CODE", "0")))
"""
SCONTROL = """#!/bin/sh
[ "$1" = show ] && echo "JobId=$3 JobState=${STATE:-RUNNING} Reason=None" || echo "$@" >>"$NOTES/requeues"
"""


class Bench:
    """A place where a batch file runs as Slurm would run it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (place / name).write_text(text)
            (place / name).chmod(0o755)

    def start(self, file: Path, *arguments: str, **environment: str) -> subprocess.Popen:
        copy = self.place / "slurm_script"
        copy.write_text(file.read_text())
        slurm = {
            "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_JOB_NAME": "name",
            "SLURM_JOB_ID": "7",
            "SLURM_NTASKS": "4",
            "SLURM_NTASKS_PER_NODE": "2",
            "SLURM_NNODES": "2",
        }
        return subprocess.Popen(
            ["bash", copy, *arguments],
            env={
                "PATH": f"{self.place}:{os.environ['PATH']}",
                "PYTHON": sys.executable,
                "NOTES": str(self.place),
                **slurm,
                **environment,
            },
            cwd=self.place,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, file: Path, *arguments: str, **environment: str) -> tuple[int, str]:
        process = self.start(file, *arguments, **environment)
        _, errors = process.communicate(timeout=30)
        assert not (self.place / "X").exists()
        return process.returncode, errors

    @property
    def called(self) -> tuple[list[str], dict[str, str]]:
        """srun's arguments and environment."""
        return json.loads((self.place / "srun.json").read_text())

    @property
    def command(self) -> list[str]:
        """What a task runs: the interpreter and all after it."""
        words, _ = self.called
        return words[words.index("-m") - 1 :]

    @property
    def variables(self) -> dict[str, str]:
        """What env sets for a task."""
        words, _ = self.called
        return dict(word.split("=", 1) for word in words[words.index("env") + 1 : words.index("-m") - 1])

    @property
    def requeued(self) -> bool:
        path = self.place / "requeues"
        return path.exists() and path.read_text() == "requeue 7\n"
