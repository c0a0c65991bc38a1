"""Signs of life: a small file of each rank in the run directory, by which the others tell who keeps them waiting.

    .ranks/<rank>.json     host, pid, step, phase, and how long there has been no progress

Nothing here is a collective or waits for another rank, so it works when nothing else does.
"""

import functools
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = ".ranks"
PHASES = (
    "starting",
    "joining the group",
    "preparing",
    "waiting for data",
    "in a step",
    "evaluating",
    "saving",
    "leaving the group",
)
"""What a rank is about, in the order in which it comes at one step."""
LENGTH_BYTES = 1024
"""Of a file: always the same, so that one write replaces all of it."""
STATES = {"T": "stopped", "t": "stopped by a debugger", "D": "waiting for a disk or a driver"}
"""The kernel's states of a process that say why it gets nowhere."""


@dataclass(frozen=True)
class Sign:
    """What one process says of itself. step: steps done. machine, born: of which kernel's which process `pid` is.

    stuck_s: how long it has seen no progress, where it takes that for a hang.
    """

    rank: int
    host: str
    machine: str
    pid: int
    born: str
    step: int
    phase: str
    stuck_s: float | None = None

    @property
    def position(self) -> tuple[int, int]:
        """How far it has come: ranks wait for those that are behind them."""
        return self.step, PHASES.index(self.phase)


@dataclass(frozen=True)
class Seen:
    """A sign, as another process found it. age_s: how much older it is than the finder's own."""

    sign: Sign
    age_s: float


def own(rank: int, step: int, phase: str, stuck_s: float | None = None) -> Sign:
    """This process's sign."""
    pid = os.getpid()
    return Sign(rank, socket.gethostname(), machine(), pid, birth(pid), step, phase, stuck_s)


def write(folder: Path, sign: Sign) -> None:
    """Replace this rank's file, by one write to the place where it lies. Raises OSError."""
    content = json.dumps(asdict(sign)).encode().ljust(LENGTH_BYTES - 1) + b"\n"
    file = os.open(folder / f"{sign.rank}.json", os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(file, content, 0)
    finally:
        os.close(file)  # on NFS the moment when others can see it


def read(folder: Path, rank: int, since_unix_s: float = 0.0) -> dict[int, Seen]:
    """All ranks' signs, seen by `rank`; none where it has none itself, to which it could compare them.

    Ages are by the file system's clock, not by those of the hosts. What is older than `since_unix_s`, which is by
    that clock too, is of an earlier start.
    """
    found: dict[int, tuple[Sign, float]] = {}
    for path in folder.glob("*.json"):
        try:
            with open(path) as file:  # opened before it is asked for its time: then NFS asks the server
                sign, time_s = Sign(**json.load(file)), os.fstat(file.fileno()).st_mtime
        except (OSError, ValueError, TypeError):
            continue
        if time_s >= since_unix_s and sign.phase in PHASES:
            found[sign.rank] = sign, time_s
    if rank not in found:
        return {}
    now_s = found[rank][1]
    return {number: Seen(sign, max(now_s - time_s, 0.0)) for number, (sign, time_s) in found.items()}


def missing(seen: Mapping[int, Seen], num_processes: int, old_s: float) -> dict[int, str]:
    """The ranks that keep the others waiting, each with what is known of it.

    These are the first that there are of: those without a sign of life, with one that is older than `old_s`, stopped
    or gone; those that are behind the others. Without either, of nobody can be said that it is the cause.
    """
    why = {}
    for rank in range(num_processes):
        if rank not in seen:
            why[rank] = "no sign of life since this start"
            continue
        sign, age_s = seen[rank].sign, seen[rank].age_s
        state = kernel_state(sign)
        if state in ("gone", *STATES.values()) and not (state == STATES["D"] and age_s <= old_s):
            why[rank] = f"{state}; {_where(sign)}, last sign {age_s:.0f} s ago"
        elif age_s > old_s:
            why[rank] = f"silent; {_where(sign)}, last sign {age_s:.0f} s ago"
    if why:
        return why
    positions = {rank: each.sign.position for rank, each in seen.items()}
    first = max(positions.values(), default=(0, 0))
    last = min(positions.values(), default=(0, 0))
    if first == last:
        return {}
    return {
        rank: f"{each.sign.phase} at step {each.sign.step}; {_where(each.sign)}"
        for rank, each in sorted(seen.items())
        if positions[rank] == last
    }


def _where(sign: Sign) -> str:
    return f"host {sign.host}, pid {sign.pid}"


@functools.cache
def machine() -> str:
    """Names the kernel and the namespace in which this process's number is that of a process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def birth(pid: int) -> str:
    """When the process with this number began, in the kernel's ticks; "" where there is none."""
    return _stat(pid)[1]


def kernel_state(sign: Sign) -> str:
    """What the kernel says of a process on this machine: "gone", a word of STATES, or "" for neither or not known."""
    if sign.machine != machine():
        return ""
    letter, born = _stat(sign.pid)
    if letter in ("", "Z", "X") or born != sign.born:
        return "gone"
    return STATES.get(letter, "")


def _stat(pid: int) -> tuple[str, str]:
    """(state, start time) of /proc/PID/stat, fields 3 and 22 of proc(5)."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return words[0], words[19]
