"""Starts the sampler beside a program, and ends it."""

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from telemetry.clock import clock

CHECKOUT = Path(__file__).resolve().parents[1]
SHORTEST_S, LONGEST_S = 0.1, 3600.0
"""Intervals that make sense: GPM wants 0.1 s between two samples, and the driver's counters change no faster."""


class Sampling:
    """A sampler that runs. `path`: the file it appends to."""

    def __init__(self, folder: Path, interval_s: float) -> None:
        self.path = folder / f"telemetry-{clock()['host']}.jsonl"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        self._process: subprocess.Popen[bytes] | None = None
        self._why: str | None = None
        paths = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
        try:
            # Its end of this pipe closes with us, even by kill -9: so it knows when to go.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "telemetry.sampler", str(folder), repr(interval_s)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                env={**os.environ, "PYTHONPATH": paths},
            )
        except OSError as error:
            self._errors.close()
            self._why = f"no telemetry: {error}"

    @property
    def pid(self) -> int | None:
        """The sampler's process, None where it could not be started."""
        return self._process.pid if self._process else None

    def close(self, timeout_s: float = 5.0) -> str | None:
        """Let it take its last sample, and wait for that. Returns a line if it had gone before.

        A second call does nothing.
        """
        process, self._process = self._process, None
        if process is None:
            why, self._why = self._why, None
            return why
        assert process.stdin is not None
        process.stdin.close()
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:  # a GPU that is being lost can hold up a call for ever
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # within the driver even SIGKILL waits
                process.wait(timeout_s)
            return f"the sampler did not answer and was ended; {self.path.name} lacks its end"
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines()
        self._errors.close()
        if code == 0:
            return None
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the sampler ended early with {how}{': ' if words else ''}{words[-1] if words else ''}"


def start(folder: Path, interval_s: float) -> Sampling:
    """Start a sampler that appends to `folder`/telemetry-<host>.jsonl. Never raises: `close` tells what went wrong."""
    return Sampling(folder, interval_s)
