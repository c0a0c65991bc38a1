"""One process tree in a race: started, let run to the end of a window, held still while its opponent runs.

Held with SIGSTOP, two programs take turns of a second on the same machine, so what else goes on there hits both
alike. Every figure is taken from outside, in the same way for both: the clock is the race's own, memory and CPU
time are the kernel's.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships none

STEP = re.compile(rb'(?:step |\{"step": )(\d+)')
POLL_S = 0.002
TAIL_LINES = 15
LAUNCHER_ENDS_S = 10
"""Time that a launcher has, once its ranks are gone."""


@dataclass(frozen=True)
class Entry:
    """What is started. `first_row` is the file whose first byte says that step 1 is done; without it a line does.

    has_launcher: the first process only starts the others (torchrun, mpirun), and is no rank.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    first_row: Path | None = None
    has_launcher: bool = False


@dataclass(frozen=True)
class Window:
    """From one reported step to the next: seconds of wall time and of CPU time over all ranks, a step."""

    step_time_s: float
    cpu_time_s: float


class Contestant:
    """Runs from `start` on, or from `run_window` to the line that ends a window; stands still otherwise."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.step = 0
        self.peak_memory_bytes = 0
        self.first_line = b""
        self._pids: list[int] = []
        self._tail: list[bytes] = []

    def start(self) -> Window:
        """Start it; returns what the way from the command to the end of its first step took."""
        started = time.perf_counter()
        self._root = subprocess.Popen(
            self.entry.command,
            env={**os.environ, **self.entry.environment, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        row = self.entry.first_row
        while row is not None and not (row.exists() and row.stat().st_size) and self._root.poll() is None:
            time.sleep(POLL_S)
        if row is None:
            self._read_step()
        seconds = time.perf_counter() - started
        with suppress(psutil.NoSuchProcess):
            everyone = psutil.Process(self._root.pid).children(recursive=True)
            self._pids = [self._root.pid, *(process.pid for process in everyone)]
        first_step = Window(seconds, self._cpu_time_s())
        if row is not None:
            self._read_step()  # the line comes after the row, and tells why there is none
        self._signal(signal.SIGSTOP)
        return first_step

    def run_window(self) -> Window:
        """Go on to the end of the next window."""
        cpu_before_s, first_step = self._cpu_time_s(), self.step
        started = time.perf_counter()
        self._signal(signal.SIGCONT)
        self._read_step()
        seconds = time.perf_counter() - started
        self._signal(signal.SIGSTOP)
        num_steps = self.step - first_step
        self._read_memory()
        return Window(seconds / num_steps, (self._cpu_time_s() - cpu_before_s) / num_steps)

    def run_to_the_end(self) -> int:
        """Let it finish (evaluate, save); returns the exit code. `peak_memory_bytes` then covers all of the run."""
        self._signal(signal.SIGCONT)
        while self._root.stdout and (line := self._root.stdout.readline()):
            self._remember(line)
            self._read_memory()
        return self._root.wait()

    def kill(self) -> None:
        """End every process of it; a launcher ends by itself. A second call does nothing."""
        if not hasattr(self, "_root"):
            return
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._root.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        if self.entry.has_launcher:  # mpirun's files in /tmp and /dev/shm would stay if it were killed
            self._signal(signal.SIGCONT)
            with suppress(subprocess.TimeoutExpired):
                self._root.wait(LAUNCHER_ENDS_S)
        self._root.kill()
        self._root.wait()
        if self._root.stdout:
            self._root.stdout.close()

    @property
    def _ranks(self) -> list[int]:
        """The training processes and what they started; not the launcher."""
        return self._pids[1:] if self.entry.has_launcher else self._pids

    def _read_step(self) -> None:
        assert self._root.stdout is not None
        while line := self._root.stdout.readline():
            self._remember(line)
            if match := STEP.match(line):
                self.step = int(match[1])
                self.first_line = self.first_line or line
                return
        output = b"".join(self._tail).decode(errors="replace")
        raise RuntimeError(
            f"{self.entry.name} ended after step {self.step}; the end of its output:\n{output}"
        )

    def _remember(self, line: bytes) -> None:
        self._tail = [*self._tail[-TAIL_LINES:], line]

    def _signal(self, number: int) -> None:
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _cpu_time_s(self) -> float:
        """CPU seconds of all ranks so far, to the nanosecond (the kernel's clock of another process)."""
        total = 0.0
        for pid in self._ranks:
            with suppress(OSError):
                total += time.clock_gettime(~pid << 3 | 2)  # <linux/posix-timers_types.h>: CPUCLOCK_SCHED
        return total

    def _read_memory(self) -> None:
        """The peak resident set (VmHWM), summed over the ranks."""
        total_kib = 0
        for pid in self._ranks:
            with suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                match = re.search(r"VmHWM:\s+(\d+) kB", status)
                total_kib += int(match[1]) if match else 0
        self.peak_memory_bytes = max(self.peak_memory_bytes, total_kib * 1024)
