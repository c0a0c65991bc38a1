"""One child process that never outlives us, and whose ending is explained."""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import BinaryIO

import psutil  # type: ignore[import-untyped] # its stubs are a package of their own

from training.hanging import NO_PROGRESS
from training.options import warn
from training.problems import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED_EARLY, EXIT_USAGE
from training.process import PR_SET_PDEATHSIG
from training.stopping import AGAIN_S
from training.stopping import SIGNALS as WARNINGS

FORWARDED = (*WARNINGS, signal.SIGHUP)
PASSES_ON = ("mpirun", "srun")
"""Launchers that may have started ranks on other nodes, and pass SIGUSR2 on to them."""
TAIL_BYTES = 64 * 1024
ENDS_S = 10.0
"""How long a launcher may take to end its ranks."""
CONSEQUENCES = (signal.SIGTERM, signal.SIGABRT)
"""Signals by which torchrun and NCCL end a rank because another one has failed."""
EXIT_CODES = (
    r"rank\s*: (\d+).*\n\s*exitcode\s*: (-?\d+)",  # torchrun
    r"Process name: (?:\[\[\d+,\d+\],)?(\d+)\]?\s*\n\s*Exit code:\s+(\d+)",  # Open MPI, horovodrun over Gloo
)
SIGNALS = (
    r"process rank (\d+) with PID \d+ on node \S+ exited on signal (\d+)",  # Open MPI
    r"RANK (\d+) PID .*\n.*KILLED BY SIGNAL: (\d+)",  # MPICH's kind
)
"""How launchers tell of a rank that ended: its number and its exit code, or its signal."""
TOLD = re.compile(r"trimaran: (rank \d+ failed .*)")
"""What a rank says itself (training.process.report_failure)."""
PERHAPS = {
    signal.SIGKILL: "perhaps by the kernel, out of memory: see dmesg",
    signal.SIGBUS: "perhaps a file that it has mapped was cut short, or /dev/shm is full: see df",
}
"""What is often behind a signal that says nothing itself."""
HEARD: list[int] = []
"""The signals that this launcher got since it started its child."""
STARTED_UNIX_S = time.time()
"""When this launcher began: an older note is of an earlier start of a run that was resumed."""


def run_child(command: list[str], environment: dict[str, str], cwd: Path | None = None) -> tuple[int, str]:
    """Run to the end, passing signals on; returns the exit code and the end of what it wrote to standard error.

    On a terminal the child writes there itself (a progress bar needs that), and the text returned is empty.
    Raises SystemExit, with 128 + its number, after a second signal: it ends the child and its ranks at once.
    """
    HEARD.clear()
    on_terminal = sys.stderr.isatty()
    passes_on = Path(command[0]).name in PASSES_ON
    child = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        cwd=cwd,
        start_new_session=True,
        preexec_fn=_die_with_parent if passes_on else _end_only_when_asked,
        stderr=None if on_terminal else subprocess.PIPE,
    )
    signals = Signals(child, passes_on)
    previous = {number: signal.signal(number, signals.hear) for number in FORWARDED}
    tail = bytearray()
    copier = threading.Thread(target=_copy, args=(child.stderr, tail), daemon=True)
    try:
        if child.stderr is not None:
            # A signal that the kernel gives to another thread does not wake this one, which is to hear it.
            unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
            copier.start()
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        code = child.wait()
        signals.finish()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _send_group(child, signal.SIGKILL)  # what is left of it would hold the pipe open
        if child.stderr is not None:
            copier.join(timeout=5)
            if not copier.is_alive():
                child.stderr.close()
    if signals.again and code not in (EXIT_DONE, EXIT_STOPPED_EARLY):  # else it came too late
        warn(f"{signal.Signals(signals.again).name} again: ended at once; go on with --resume")
        raise SystemExit(128 + signals.again)
    return code, tail.decode(errors="replace")


class Signals:
    """What reaches this process while a child runs: the first one is passed on as a warning, a second ends all.

    What comes within AGAIN_S of the first is the same warning, as in training/stopping.py. again: the second, or 0.
    """

    def __init__(self, child: subprocess.Popen, passes_on: bool) -> None:
        self.again = 0
        self._child, self._passes_on = child, passes_on
        self._warned_s: float | None = None
        self._ender = threading.Thread(target=self._end_all, daemon=True)

    def hear(self, number: int, _: object) -> None:
        """The handler."""
        if number in WARNINGS:
            now_s = time.monotonic()
            self._warned_s = now_s if self._warned_s is None else self._warned_s
            if now_s - self._warned_s > AGAIN_S:
                if not self.again:
                    self.again = number
                    self._ender.start()
                return
        _pass_on(self._child, number, self._passes_on)

    def finish(self) -> None:
        """The child has ended; so have its ranks when this returns, after a second signal."""
        if self.again:
            self._ender.join()

    def _end_all(self) -> None:
        ranks = ranks_of(self._child.pid)
        for _ in range(2):  # to a rank that heard of the first a moment after us it would be the same one yet
            _pass_on(self._child, self.again, self._passes_on)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(AGAIN_S)
                break
        for rank in ranks:  # one that is stopped hears nothing, and its launcher would give it long
            with contextlib.suppress(psutil.Error):
                rank.kill()
        _end_group(self._child)


def run_quietly(
    command: list[str], environment: dict[str, str], run_dir: Path, timeout_s: float | None = None
) -> tuple[int, str]:
    """Run to the end with its output kept to itself; returns the exit code and, if it is not 0, why."""
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            start_new_session=True,
            preexec_fn=_die_with_parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            code = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return EXIT_FAILED, f"was ended after {timeout_s:g} s"
        finally:
            _end_group(child)
        output.seek(0)
        text = output.read()[-TAIL_BYTES:].decode(errors="replace")
    if code in (EXIT_DONE, EXIT_STOPPED_EARLY):
        return EXIT_DONE, ""
    if code == EXIT_USAGE and text.strip():
        return code, text.strip().splitlines()[-1]
    return code, explain(code, text, run_dir)


def explain(code: int, errors: str, run_dir: Path) -> str:
    """Why a child failed, in one line: a rank that was killed, the first that recorded a reason, or torchrun's words.

    When one is killed the others fail as well, a moment later, in the collective that it has left.
    """
    written = {path: path.stat().st_mtime for path in run_dir.glob("failure-*.txt")}
    description = run_dir / "run.json"  # each start writes it, torchrun's restarts too
    since_s = max(STARTED_UNIX_S, description.stat().st_mtime if description.exists() else 0.0)
    notes = sorted((path for path in written if written[path] >= since_s), key=written.__getitem__)
    noted = [
        (line, path) for path in notes if (line := path.read_text().partition("\n")[0])
    ]  # empty: a full disk
    if noted and NO_PROGRESS in noted[0][0]:
        return noted[0][0]  # who noticed a hang has killed those that were stopped
    endings = rank_endings(errors)
    for rank, ending in endings:
        if ending < 0 and -ending not in CONSEQUENCES:
            return f"rank {rank} ended with {_ending(ending)}"
    if noted:
        return f"{noted[0][0]} (traceback in {noted[0][1]})"
    if told := TOLD.search(errors):  # and could not be written
        return told[1]
    if endings:
        rank, ending = endings[-1]  # torchrun's root cause comes last
        return f"rank {rank} ended with {_ending(ending)}"
    last = next((line.strip() for line in reversed(errors.splitlines()) if "Error" in line), "")
    return f"the training process ended with {_ending(code)}{': ' if last else ''}{last}"


def rank_endings(errors: str) -> list[tuple[str, int]]:
    """(rank, exit code or minus a signal) of those whose ending the launcher told: torchrun, mpirun, horovodrun."""
    found = [(rank, int(code)) for pattern in EXIT_CODES for rank, code in re.findall(pattern, errors)]
    # 128 and more is a shell's word for a signal, if there is one of that number: sys.exit(-1) is 255.
    found = [(rank, 128 - code if code - 128 in set(signal.Signals) else code) for rank, code in found]
    killed = [(rank, -int(number)) for pattern in SIGNALS for rank, number in re.findall(pattern, errors)]
    return [*killed, *found]


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    number = signal.Signals(-code)
    return f"signal {number.name}" + (f" ({PERHAPS[number]})" if number in PERHAPS else "")


def _copy(source: BinaryIO, tail: bytearray) -> None:
    while chunk := os.read(source.fileno(), 8192):
        sys.stderr.buffer.write(chunk)
        sys.stderr.buffer.flush()
        tail += chunk
        del tail[:-TAIL_BYTES]


def _die_with_parent() -> None:
    # Not SIGKILL: a launcher ends its ranks, and mpirun removes its shared memory.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _end_only_when_asked() -> None:
    # Slurm sends a warning to every process of a step, and a torchrun that it ends would take its ranks along.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, signal.SIGUSR2))
    _die_with_parent()


def _pass_on(child: subprocess.Popen, number: int, passes_on: bool) -> None:
    """A warning goes to the ranks themselves, which stop when they have saved.

    After a SIGTERM torchrun would kill them in 30 s, horovodrun in 5, mpirun in 1, and srun at once.
    """
    HEARD.append(number)
    if number not in WARNINGS:
        child.send_signal(number)
    elif ranks := ranks_of(child.pid):
        for rank in ranks:
            with contextlib.suppress(psutil.NoSuchProcess):
                rank.send_signal(number)
    else:  # on other nodes, or not started yet, when there is nothing to save
        child.send_signal(signal.SIGUSR2 if passes_on else signal.SIGTERM)


def ranks_of(pid: int) -> list[psutil.Process]:
    """The training processes on this node that process `pid` started, or is: python … -m distributed.…"""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                _, *words = process.cmdline() or [""]
                module = next((word for word in words if not word.startswith("-")), "")
                if module.startswith("distributed.") and "-m" in words[: words.index(module)]:
                    found.append(process)
    return found


def _end_group(child: subprocess.Popen) -> None:
    """Launchers first, which end what they started elsewhere (srun, mpirun); then whatever is left."""
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(ENDS_S)
    _send_group(child, signal.SIGKILL)
    child.wait()


def _send_group(child: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)
