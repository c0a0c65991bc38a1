"""A run that hangs ends, in a bounded time: every rank's stacks are written, and who kept the others waiting is named.

A thread of each process writes a sign of life (training/signs.py) and looks at how long ago the last progress was. The
main thread knows nothing of it: it sets a few attributes of its Watch. After --hang-timeout-s without progress
the process writes stacks-<rank>.txt, gives the other ranks a moment to do the same, reads their signs, and ends. The
lowest rank of those that notice tells: failure-<rank>.txt, status.json, one line.

Joining the group, the first step, an evaluation and a save may take longer, see LONG_TIMES. The clock does not
go on while a machine is suspended.
"""

import contextlib
import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from telemetry.run_log import write_status
from training import ending, signs
from training.problems import EXIT_FAILED

if TYPE_CHECKING:
    from training.run import Run
    from training.stopping import Watch

SHORTEST_S, LONGEST_S = 5.0, 7 * 24 * 3600.0
"""Between these lies --hang-timeout-s."""
LONG_TIMES, LONG_S = 5, 600.0
"""What takes long by nature may take so many times as long, but no longer than LONG_S for that."""
SIGNS_A_TIMEOUT = 8
LEAST_INTERVAL_S, LONGEST_INTERVAL_S = 1.0, 30.0
"""Between two signs of life, of which there are SIGNS_A_TIMEOUT in --hang-timeout-s, these permitting."""
OLD_INTERVALS = 4
"""A sign of so many intervals is old: its process is stopped, or its node is gone."""
LOOK_S = 1.0
TELLS_FIRST_S = 3.0
"""How much longer than the one who tells the others stay: a launcher ends all as soon as one is gone."""
MOST_NAMED = 8
NO_PROGRESS = "no progress for"
"""In the first line of a failure-<rank>.txt that tells of a hang."""


def longest_s(timeout_s: float) -> float:
    """What may go by without progress where something takes long by nature, as to join a group does; 0: no bound."""
    return max(timeout_s, min(LONG_TIMES * timeout_s, LONG_S))


class Watchdog:
    """Notices that a process gets nowhere. `look` is called about every LOOK_S, in a thread of its own."""

    def __init__(
        self,
        run_dir: Path,
        rank: int,
        num_processes: int,
        timeout_s: float,
        watch: "Watch",
        end: Callable[[int], object] = os._exit,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._run_dir, self._rank, self._num_processes = run_dir, rank, num_processes
        self._folder = run_dir / signs.FOLDER
        self._timeout_s, self._watch = timeout_s, watch
        self._end, self._clock, self._sleep = end, clock, sleep
        self._interval_s = min(max(timeout_s / SIGNS_A_TIMEOUT, LEAST_INTERVAL_S), LONGEST_INTERVAL_S)
        self._next_sign_s = self._looked_s = self._resumed_s = clock()
        self._since_unix_s = 0.0

    @property
    def limit_s(self) -> float:
        """How long there may be no progress now."""
        return longest_s(self._timeout_s) if self._watch.takes_long else self._timeout_s

    @property
    def grace_s(self) -> float:
        """How long this process waits for the others to notice too."""
        return min(2 * self._interval_s + LOOK_S, 20.0)

    def begin(self) -> None:
        """The first sign, whose time tells those of this start from those of an earlier one."""
        with contextlib.suppress(
            OSError
        ):  # made once: a run whose directory was removed is not to make another
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / f"{self._rank}.json").unlink(missing_ok=True)
        self._sign()
        with contextlib.suppress(OSError):
            began_unix_s = (self._folder / f"{self._rank}.json").stat().st_mtime
            self._since_unix_s = (
                began_unix_s - self._interval_s
            )  # a rank that began earlier gave a sign since

    def look(self) -> None:
        """A sign if it is time for one; the end if there was no progress for too long."""
        now_s = self._clock()
        if (
            now_s - self._looked_s > self._timeout_s / 2
        ):  # this process itself was stopped: Ctrl-Z, a debugger
            self._resumed_s = now_s
        if now_s >= self._next_sign_s:
            self._sign()
        quiet_s = min(self._watch.quiet_s, self._clock() - self._resumed_s)
        if quiet_s > self.limit_s:
            self._notice()
        self._looked_s = self._clock()

    def _notice(self) -> None:
        quiet_s = self._watch.quiet_s
        ending.in_time(self._dump)
        self._sign(quiet_s)
        self._sleep(self.grace_s)
        if self._watch.quiet_s < quiet_s:  # it was slow and no more
            self._sign()
            return
        self._sign(self._watch.quiet_s)
        self._end_run()

    def _sign(self, stuck_s: float | None = None) -> None:
        self._next_sign_s = self._clock() + self._interval_s
        sign = signs.own(self._rank, self._watch.step, self._watch.phase, stuck_s)
        # What fails here is no reason to end a run that trains.
        ending.in_time(lambda: signs.write(self._folder, sign))

    def _dump(self) -> None:
        """The stacks of all Python threads of this process."""
        with open(self._run_dir / f"stacks-{self._rank}.txt", "w") as file:
            file.write(f"{self._finding(self._watch.quiet_s)}\n\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)

    def _finding(self, quiet_s: float) -> str:
        where = f"at step {self._watch.step} ({self._watch.phase})"
        return f"rank {self._rank}: {NO_PROGRESS} {quiet_s:.0f} s {where}"

    def _end_run(self) -> None:
        quiet_s, seen = self._watch.quiet_s, {}
        ending.in_time(lambda: seen.update(signs.read(self._folder, self._rank, self._since_unix_s)))
        missing = signs.missing(seen, self._num_processes, OLD_INTERVALS * self._interval_s) if seen else {}
        noticed = sorted(rank for rank, each in seen.items() if each.sign.stuck_s is not None)
        first = min((rank for rank in noticed if rank not in missing), default=self._rank)
        if self._rank == first:
            line = self._line(quiet_s, missing, can_read=bool(seen))
            ending.in_time(lambda: self._record(line, seen))
            ending.tell(line)
        on_machine = {seen[rank].sign.machine: rank for rank in reversed(noticed)}
        silent = [seen[rank].sign for rank in missing if rank in seen and rank not in noticed]
        mine = [sign for sign in silent if on_machine.get(sign.machine, first) == self._rank]
        ending.in_time(lambda: self._write_stacks_of(mine))
        if self._rank != first:
            self._sleep(TELLS_FIRST_S)
        end_stopped(mine)
        self._end(EXIT_FAILED)

    def _line(self, quiet_s: float, missing: dict[int, str], can_read: bool) -> str:
        named = [f"rank {rank} ({why})" for rank, why in missing.items() if rank != self._rank]
        named[MOST_NAMED:] = [f"{len(named) - MOST_NAMED} more"] if len(named) > MOST_NAMED else []
        if not can_read:
            cause = f": {self._folder} cannot be read"
        elif named:
            cause = f": waits for {', '.join(named)}"
        else:  # alone, or the one that the others wait for
            cause = "" if missing or self._num_processes == 1 else ": all ranks are there and wait alike"
        stacks = f"stacks in {self._run_dir}/stacks-*.txt"
        # Before it has joined, a run has written nothing to go on from.
        again = (
            "start again" if self._watch.phase in ("starting", "joining the group") else "go on with --resume"
        )
        return f"{self._finding(quiet_s)}{cause}; {stacks}; {again}, or raise --hang-timeout-s"

    def _record(self, line: str, seen: dict[int, signs.Seen]) -> None:
        table = [
            f"rank {rank}: {each.sign.phase} at step {each.sign.step}, host {each.sign.host}, pid {each.sign.pid}, "
            f"last sign {each.age_s:.0f} s ago"
            for rank, each in sorted(seen.items())
        ]
        (self._run_dir / f"failure-{self._rank}.txt").write_text("\n".join([line, "", *table, ""]))
        if self._watch.phase != "leaving the group":  # then it says already how the run ended
            write_status(self._run_dir, "failed", self._watch.step, line)

    def _write_stacks_of(self, silent: list[signs.Sign]) -> None:
        for sign in silent:
            (self._run_dir / f"stacks-{sign.rank}.txt").write_text(from_outside(sign))


def end_stopped(processes: list[signs.Sign]) -> None:
    """End those that are stopped. A launcher would ask them to end and wait in vain; where there is none they stay."""
    for sign in processes:
        if signs.kernel_state(sign).startswith("stopped"):
            with contextlib.suppress(OSError):
                os.kill(sign.pid, signal.SIGKILL)


def from_outside(sign: signs.Sign) -> str:
    """What can be told of a process that cannot write its own stacks."""
    head = f"rank {sign.rank} (host {sign.host}, pid {sign.pid}) could not write its own stacks; "
    if sign.machine != signs.machine():
        return f"{head}another host's, of which nothing can be seen from here\n"
    if signs.birth(sign.pid) != sign.born:
        return f"{head}the process is gone\n"
    lines = [f"{head}what the kernel tells of it:"]
    tasks = sorted(Path(f"/proc/{sign.pid}/task").glob("[0-9]*"), key=lambda path: int(path.name))
    for task in tasks:
        found = {name: _read(task / name) for name in ("comm", "stat", "wchan", "syscall", "stack")}
        state = (found["stat"].rpartition(")")[2].split() or ["unknown"])[0]
        lines.append(
            f"thread {task.name} ({found['comm']}): state {state}, wchan {found['wchan'] or 'not readable'}, "
            f"syscall {found['syscall'] or 'not readable'}"
        )
        lines += [f"    {frame}" for frame in found["stack"].splitlines()]
    return "\n".join(lines) + "\n"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def watch_over(run: "Run", watch: "Watch") -> None:
    """Begin to watch over this process of `run`, unless it is to be verified or --hang-timeout-s is 0."""
    if not run.options.hang_timeout_s or run.options.replay_from is not None:
        return
    dog = Watchdog(run.run_dir, run.world.rank, run.world.num_processes, run.options.hang_timeout_s, watch)

    def keep_looking() -> None:
        dog.begin()
        while True:
            time.sleep(LOOK_S)
            dog.look()

    threading.Thread(target=keep_looking, name="hanging", daemon=True).start()
