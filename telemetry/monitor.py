"""Samples a host's GPUs, CPU, memory and network while a command runs, and draws what it saw.

The command is started as if there were no monitor: same terminal, process group and standard streams, and its
ending is the monitor's. One thread does everything: it waits for signals, the command's ending among them.
"""

import argparse
import contextlib
import errno
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from telemetry.live import REFRESH_S, Latest, LiveTable, Tail, can_show
from telemetry.run_log import write_json
from telemetry.sampling import LONGEST_S, SHORTEST_S, Sampling, start

PASSED_ON = (
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
SI_KERNEL = 0x80  # si_code of a signal that the terminal sends to its whole foreground group, <asm/siginfo.h>
EXIT_USAGE, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND = 2, 126, 127
HELP = """\
Sample GPUs, CPU, memory and network while COMMAND runs, or until Ctrl-C or SIGTERM if there is none.

The command has this terminal and these standard streams; its exit code is passed on, and so are signals to it.
In DIR are then:

  telemetry-<host>.jsonl           the samples; docs/telemetry.md has their keys
  telemetry.html, telemetry.png    what they look like over time; python -m telemetry.page DIR draws them again
  monitor.json                     the command and how it ended

Counters that the hardware does not offer are null in the samples and n/a on the page.
"""
LIVE_HELP = """\
show a table of the newest samples at the bottom of the terminal also while a COMMAND runs. It is shown without
being asked for if there is no COMMAND. Of use if the command writes elsewhere: -- sh -c 'train > log 2>&1';
lines written to the same terminal fight with the table"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _Unusable(message.removeprefix("argument "))


class _Unusable(Exception):
    """The command line, or what it names, cannot be used; one line."""

    def __init__(self, line: str, exit_code: int = EXIT_USAGE) -> None:
        super().__init__(line)
        self.exit_code = exit_code


def main(arguments: list[str]) -> int:
    """Returns the exit code; a command that a signal ended ends this process by the same one."""
    try:
        options, command = _parse(arguments)
        _find(command)
        # What was ignored as we started (nohup) stays so, for the command too.
        heard = {number for number in PASSED_ON if signal.getsignal(number) != signal.SIG_IGN}
        # Ignored, as it may be, it would hide the command's ending.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, heard | {signal.SIGCHLD})
        _claim(options.out, command)
    except _Unusable as problem:
        _say(str(problem))
        return problem.exit_code
    monitored = Monitored(options.out, start(options.out, options.interval), command)
    try:
        child = _spawn(command, heard) if command else None
    except OSError as error:
        monitored.withdraw()
        _say(f"{command[0]}: found a file that does not run ({error.strerror}), expected a program")
        return EXIT_NOT_FOUND if error.errno == errno.ENOENT else EXIT_NOT_EXECUTABLE
    code = monitored.run(child, heard, shows_table=_shows_table(options.live, command))
    monitored.finish(code, heard)
    return code if code >= 0 else _end_by(-code)


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = _Parser(
        prog="python -m telemetry.monitor",
        usage="%(prog)s [--out DIR] [--interval S] [--live] [-- COMMAND …]",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="made if there is none; default: runs/monitor-DATE-TIME"
    )
    parser.add_argument(
        "--interval",
        metavar="S",
        type=_interval_s,
        default=1.0,
        help="seconds between two samples, 0.1 to 3600; default: 1",
    )
    parser.add_argument("--live", action="store_true", help=LIVE_HELP)
    own, dashes, command = arguments, False, list[str]()
    if "--" in arguments:
        index = arguments.index("--")
        own, dashes, command = arguments[:index], True, arguments[index + 1 :]
    options = parser.parse_args(own)
    if options.out is None:
        options.out = Path("runs", time.strftime("monitor-%Y%m%d-%H%M%S"))
    if dashes and not command:
        raise _Unusable("--: found no command behind it, expected one, or no --")
    return options, command


def _interval_s(text: str) -> float:
    with contextlib.suppress(ValueError):
        if SHORTEST_S <= float(text) <= LONGEST_S:
            return float(text)
    raise argparse.ArgumentTypeError(f"found {text}, expected {SHORTEST_S:g} to {LONGEST_S:g} seconds")


def _find(command: list[str]) -> None:
    """Before anything is made: whether there is such a program."""
    if command and shutil.which(command[0]) is None:
        if os.path.sep in command[0] and os.path.exists(command[0]):
            raise _Unusable(
                f"{command[0]}: found no program, expected an executable file", EXIT_NOT_EXECUTABLE
            )
        raise _Unusable(f"{command[0]}: command not found", EXIT_NOT_FOUND)


def _claim(folder: Path, command: list[str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if found := sorted([*folder.glob("telemetry-*.jsonl"), *folder.glob("telemetry.*")]):
            raise FileExistsError(errno.EEXIST, "", found[0])
        with open(
            folder / "monitor.json", "x"
        ):  # a second monitor at the same time gets no further than this
            pass
        write_json(folder / "monitor.json", {"command": command, "exit_code": None, "wall_s": None})
    except FileExistsError as error:
        if Path(error.filename) == folder:
            raise _Unusable(f"--out: found {folder}, which is no directory, expected a directory") from None
        found_file = Path(error.filename).name
        raise _Unusable(f"--out: found {found_file} in {folder}; choose another directory") from None
    except OSError as error:
        raise _Unusable(f"--out: found {folder} ({error.strerror}), expected one to write in") from None


def _shows_table(wanted: bool, command: list[str]) -> bool:
    possible = can_show(sys.stderr)
    if wanted and not possible:
        _say("--live: standard error is no terminal; no table is shown")
    return possible and (wanted or not command)


class Monitored:
    """A command, or the wait for Ctrl-C, and the sampler beside it."""

    def __init__(self, folder: Path, sampling: Sampling, command: list[str]) -> None:
        self._folder, self._sampling, self._command = folder, sampling, command
        self._tail, self._latest = Tail(sampling.path), Latest()
        self._warned = False
        self._start_s = time.monotonic()

    def run(self, child: subprocess.Popen | None, heard: set[signal.Signals], shows_table: bool) -> int:
        """Until the command's end; returns its exit code, or minus the signal that ended it.

        heard: the signals that are passed on to the command, and end the sampling if there is none. They and
        SIGCHLD are blocked.
        """
        table = LiveTable(sys.stderr) if shows_table else None
        try:
            while child is None or child.poll() is None:
                info = signal.sigtimedwait(heard | {signal.SIGCHLD}, REFRESH_S)
                if info is not None and info.si_signo != signal.SIGCHLD:
                    if child is None:
                        return 0
                    if not _was_heard_by_all(info):
                        child.send_signal(info.si_signo)
                self._look(table)
            return child.returncode
        finally:
            if table is not None:
                with contextlib.suppress(OSError):  # the terminal may be gone
                    table.close()

    def finish(self, code: int, heard: set[signal.Signals]) -> None:
        """Write everything there is to write. From now on Ctrl-C and the like only cut that short."""
        if problem := self._sampling.close():
            _say(problem)
        self._look(None)
        ending = {
            "command": self._command,
            "exit_code": code if code >= 0 else None,
            "signal": _name(-code) if code < 0 else None,
            "wall_s": round(time.monotonic() - self._start_s, 3),
        }
        while signal.sigtimedwait(heard, 0) is not None:
            pass  # the Ctrl-C that ended the command
        for number in heard:
            signal.signal(number, _interrupt)
        written = [self._sampling.path.name] if self._latest.samples else []
        try:
            write_json(self._folder / "monitor.json", ending)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, heard)
            from telemetry.page import write_pages

            written += [path.name for path in write_pages(self._folder)]
        except (Exception, KeyboardInterrupt) as error:  # whatever it is, the command's ending is passed on
            reason = f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
            _say(
                f"drew no page: {reason}; python -m telemetry.page {shlex.quote(str(self._folder))} draws it"
            )
        signal.pthread_sigmask(signal.SIG_BLOCK, heard)
        _say(f"wrote {', '.join(written) or 'no samples'} in {self._folder}")

    def withdraw(self) -> None:
        """The command did not start: leave the directory as it was, for a second attempt."""
        self._sampling.close()
        self._sampling.path.unlink(missing_ok=True)
        (self._folder / "monitor.json").unlink(missing_ok=True)

    def _look(self, table: LiveTable | None) -> None:
        with contextlib.suppress(OSError):  # a file system, or a terminal, that fails for now
            self._update(table)

    def _update(self, table: LiveTable | None) -> None:
        self._latest.update(self._tail.rows())
        first = self._latest.start
        if first is not None and first["nvml"] is not None and not self._warned:
            self._warned = True
            _say(f"no GPU counters: {first['nvml']}; the host's are written all the same")
        if table is not None:
            table.show(self._latest)


def _spawn(command: list[str], heard: set[signal.Signals]) -> subprocess.Popen:
    def behave_as_new() -> None:
        for number in heard:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    return subprocess.Popen(command, preexec_fn=behave_as_new)


def _was_heard_by_all(info: signal.struct_siginfo) -> bool:
    """Whether the terminal sent it to the whole foreground group, to which the command belongs.

    A terminal that is gone, though, sends SIGHUP to the leader of the session alone (Linux: __tty_hangup).
    """
    to_leader_alone = info.si_signo == signal.SIGHUP and os.getsid(0) == os.getpid()
    return info.si_code == SI_KERNEL and not to_leader_alone


def _interrupt(number: int, _frame: object) -> NoReturn:
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # once is enough
    raise KeyboardInterrupt(_name(number))


def _name(number: int) -> str:
    known = {known.value: known.name for known in signal.Signals}
    return known.get(number, f"SIGRTMIN+{number - signal.SIGRTMIN}")


def _end_by(number: int) -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core of the monitor helps nobody
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody may be reading any more
        print(f"trimaran: {line}", file=sys.stderr, flush=True)


def _settle() -> None:
    """A terminal that has gone away takes no more words, for which Python would end with 120 in place of our code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    ended_with = main(sys.argv[1:])
    _settle()
    sys.exit(ended_with)
