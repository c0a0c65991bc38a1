"""The monitor as users start it: a process of its own, around real commands, with the real sampler."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from telemetry.run_log import read_rows

pytestmark = pytest.mark.usefixtures("usual_signals")
LISTENER = """
import os, signal, sys
heard = []
def hear(number, frame):
    heard.append(signal.Signals(number).name)
    os.write(1, f"{heard[-1]} {heard.count(heard[-1])}\\n".encode())
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, hear)
os.write(1, b"ready\\n")
while heard[-1:] != ["SIGUSR2"]:
    signal.pause()
sys.exit(len(heard))
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Without matplotlib: what takes seconds, and what a command's ending must not depend on."""
    package = tmp_path / "stand-ins" / "matplotlib"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('no matplotlib here')")
    path = os.pathsep.join([str(package.parent), os.environ["PYTHONPATH"]])
    return {**os.environ, "PYTHONPATH": path, "TERM": "xterm"}


def line_of(out: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "telemetry.monitor", "--out", str(out), "--interval", "0.1", *words]


def run(
    out: Path, environment: dict[str, str], *words: str, **options: object
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line_of(out, *words), capture_output=True, text=True, env=environment, **options)  # type: ignore[call-overload,no-any-return] # options are subprocess's


def ending(out: Path) -> dict[str, object]:
    return json.loads((out / "monitor.json").read_text())


def rows_of(out: Path) -> list[dict[str, object]]:
    return [row for path in out.glob("telemetry-*.jsonl") for row in read_rows(path)]


def wait_for(what: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_a_command_has_its_streams_and_its_exit_code_and_the_page_is_drawn(tmp_path: Path) -> None:
    script = "read line; echo out $line; echo err >&2; sleep 0.3; exit 3"
    out = tmp_path / "a" / "b"
    done = run(out, {**os.environ}, "--", "sh", "-c", script, input="hello\n")
    assert (done.returncode, done.stdout) == (3, "out hello\n")
    lines = done.stderr.splitlines()
    assert "err" in lines
    has_nvml = rows_of(out)[0]["nvml"] is None
    assert sum("no GPU counters: " in line for line in lines) == (0 if has_nvml else 1)
    (telemetry,) = out.glob("telemetry-*.jsonl")
    assert lines[-1] == f"trimaran: wrote {telemetry.name}, telemetry.html, telemetry.png in {out}"
    assert [row["kind"] for row in rows_of(out)][0 :: len(rows_of(out)) - 1] == ["start", "end"]
    assert ending(out)["command"] == ["sh", "-c", script]
    assert (ending(out)["exit_code"], ending(out)["signal"]) == (3, None)
    assert "exit 3" in (out / "telemetry.html").read_text()
    assert (out / "telemetry.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_exit_code_is_passed_on_all_the_same(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    done = run(tmp_path / "out", environment, "--live", "--", "sh", "-c", "sleep 0.2; exit 5")
    assert done.returncode == 5
    assert "trimaran: --live: standard error is no terminal; no table is shown" in done.stderr
    assert [
        line for line in done.stderr.splitlines() if "drew no page: ImportError: no matplotlib here" in line
    ]
    assert ending(tmp_path / "out")["exit_code"] == 5
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "code"), [("no-such-command", 127), ("./plain", 126), ("./no-format", 126)]
)
def test_a_command_that_does_not_start_leaves_the_directory_as_it_was(
    tmp_path: Path, environment: dict[str, str], command: str, code: int
) -> None:
    (tmp_path / "plain").write_text("text")
    (tmp_path / "no-format").write_bytes(b"\x00no program")
    (tmp_path / "no-format").chmod(0o755)
    done = run(tmp_path / "out", environment, "--", command, cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.startswith(f"trimaran: {command}: ")
    assert done.stderr.count("\n") == 1
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGSEGV", "SIGRTMIN+1"])
def test_a_command_ended_by_a_signal_ends_the_monitor_by_the_same(
    tmp_path: Path, environment: dict[str, str], name: str
) -> None:
    number = signal.SIGRTMIN + 1 if name == "SIGRTMIN+1" else signal.Signals[name].value
    done = run(tmp_path / "out", environment, "--", "sh", "-c", f"kill -{number} $$", cwd=tmp_path)
    assert done.returncode == -number
    assert ending(tmp_path / "out")["signal"] == name
    assert rows_of(tmp_path / "out")[-1]["kind"] == "end"
    assert done.stderr.splitlines()[-1].startswith("trimaran: wrote telemetry-")


def test_signals_to_the_monitor_reach_the_command(tmp_path: Path, environment: dict[str, str]) -> None:
    names = ["SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2"]
    command = line_of(tmp_path / "out", "--", sys.executable, "-c", LISTENER)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as monitor:
        assert monitor.stdout is not None
        assert monitor.stdout.readline() == "ready\n"
        for name in names:
            monitor.send_signal(signal.Signals[name])
            assert monitor.stdout.readline() == f"{name} 1\n"
    assert monitor.returncode == len(names)


def test_the_command_starts_unblocked_and_keeps_what_nohup_ignores(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    def as_nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])

    done = run(tmp_path / "out", environment, "--", "cat", "/proc/self/status", preexec_fn=as_nohup)
    fields = dict(line.split(":\t", 1) for line in done.stdout.splitlines())
    of_posix = (1 << 31) - 1  # the C library's own, 32 and 33, may have been ignored before
    masks = tuple(int(fields[name], 16) & of_posix for name in ("SigBlk", "SigIgn", "SigCgt"))
    assert masks == (0, 1 << signal.SIGHUP - 1, 0)


@contextlib.contextmanager
def on_terminal(command: list[str], environment: dict[str, str]):  # type: ignore[no-untyped-def] # a generator
    """(process, read, write): the leader of a terminal's session; read(text) waits until the terminal shows that.

    write(None) closes the terminal.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 120))

    def foreground() -> None:
        os.setsid()
        os.close(os.open(os.ttyname(theirs), os.O_RDWR))  # becomes the controlling terminal

    process = subprocess.Popen(
        command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=foreground
    )
    os.close(theirs)
    terminal = os.fdopen(ours, "r+b", buffering=0)
    shown = b""

    def read(text: str) -> str:
        nonlocal shown
        with contextlib.suppress(OSError):  # EIO: nobody writes to it any more
            while text.encode() not in shown and (chunk := terminal.read(4096)):
                shown += chunk
        return shown.decode()

    try:
        yield process, read, lambda text: terminal.close() if text is None else terminal.write(text)
    finally:
        process.kill()
        process.wait()
        terminal.close()


def test_a_ctrl_c_typed_on_the_terminal_arrives_once(tmp_path: Path, environment: dict[str, str]) -> None:
    command = line_of(tmp_path / "out", "--", sys.executable, "-c", LISTENER)
    with on_terminal(command, environment) as (monitor, read, write):
        read("ready")
        wait_for(lambda: len(rows_of(tmp_path / "out")) > 1)  # there is something to show
        monitor.send_signal(signal.SIGSTOP)  # or a second one, sent at once, might merge with the first
        write(b"\x03")
        read("SIGINT 1")
        monitor.send_signal(signal.SIGCONT)
        # The monitor takes pending signals in the order of their numbers: a second SIGINT would come before these.
        monitor.send_signal(signal.SIGUSR1)
        read("SIGUSR1 1")
        monitor.send_signal(signal.SIGUSR2)
        text = read("trimaran: wrote")
        assert monitor.wait() == 3
    assert "SIGINT 2" not in text
    assert "cores" not in text  # no table among the command's lines


def test_without_a_command_a_terminal_shows_a_table_until_ctrl_c(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with on_terminal(line_of(tmp_path / "out"), environment) as (monitor, read, write):
        assert "CPU" in read("samples")
        write(b"\x03")
        read("trimaran: wrote")
        assert monitor.wait() == 0
    assert rows_of(tmp_path / "out")[-1]["kind"] == "end"
    assert ending(tmp_path / "out")["command"] == []


@pytest.mark.parametrize(
    "command", [["sh", "-c", "trap 'exit 7' HUP; echo samples; while :; do sleep 0.05; done"], []]
)
def test_a_terminal_that_goes_away_ends_both(
    tmp_path: Path, environment: dict[str, str], command: list[str]
) -> None:
    with on_terminal(
        line_of(tmp_path / "out", *(["--", *command] if command else [])), environment
    ) as terminal:
        monitor, read, write = terminal
        read("samples")
        write(None)
        assert monitor.wait() == (7 if command else 0)
    assert ending(tmp_path / "out")["exit_code"] == (7 if command else 0)
    assert rows_of(tmp_path / "out")[-1]["kind"] == "end"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_without_a_command_it_samples_until_told_to_end(
    tmp_path: Path, environment: dict[str, str], name: str
) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(line_of(out), env=environment, stderr=subprocess.PIPE, text=True) as monitor:
        wait_for(lambda: len(rows_of(out)) > 1)
        monitor.send_signal(signal.Signals[name])
        assert monitor.stderr is not None
        assert "\x1b" not in monitor.stderr.read()
    assert monitor.returncode == 0


def test_the_command_goes_on_when_the_sampler_is_killed(tmp_path: Path, environment: dict[str, str]) -> None:
    command = line_of(tmp_path / "out", "--", "sh", "-c", "read line; exit 4")
    options = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **options) as monitor:  # type: ignore[call-overload] # as above
        children: list[psutil.Process] = []
        while not children:
            found = psutil.Process(monitor.pid).children()
            children = [child for child in found if "telemetry.sampler" in child.cmdline()]
        children[0].kill()
        _, errors = monitor.communicate("\n")
    assert monitor.returncode == 4
    assert "trimaran: the sampler ended early with signal 9" in errors


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--interval", "0.01"], "--interval: found 0.01, expected 0.1 to 3600 seconds"),
        (["--interval", "nan"], "--interval: found nan, expected 0.1 to 3600 seconds"),
        (["--interval", "often"], "--interval: found often, expected 0.1 to 3600 seconds"),
        (["--"], "--: found no command behind it, expected one, or no --"),
        (["train.py"], "unrecognized arguments: train.py"),
        (["--out", "plain"], "--out: found plain, which is no directory, expected a directory"),
        (["--out", "plain/below"], "--out: found plain/below (Not a directory), expected one to write in"),
    ],
)
def test_usage_errors_are_one_line(
    tmp_path: Path, environment: dict[str, str], words: list[str], line: str
) -> None:
    (tmp_path / "plain").touch()
    done = run(tmp_path / "out", environment, *words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"trimaran: {line}\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["telemetry-other.jsonl", "telemetry.html", "monitor.json"])
def test_what_an_earlier_monitor_wrote_is_not_touched(
    tmp_path: Path, environment: dict[str, str], name: str
) -> None:
    (tmp_path / name).write_text("earlier")
    done = run(tmp_path, environment, "--", "touch", str(tmp_path / "ran"))
    line = f"trimaran: --out: found {name} in {tmp_path}; choose another directory\n"
    assert (done.returncode, done.stderr) == (2, line)
    assert (tmp_path / name).read_text() == "earlier"
    assert not (tmp_path / "ran").exists()


def test_ctrl_c_cuts_the_drawing_short_and_nothing_else(tmp_path: Path, environment: dict[str, str]) -> None:
    package = tmp_path / "stand-ins" / "matplotlib" / "__init__.py"
    package.write_text("import time\nprint('drawing', flush=True)\ntime.sleep(200)")
    command = line_of(tmp_path / "out", "--", "sh", "-c", "exit 6")
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **options) as monitor:  # type: ignore[call-overload] # as above
        assert monitor.stdout.readline() == "drawing\n"
        monitor.send_signal(signal.SIGINT)
        _, errors = monitor.communicate()
    assert monitor.returncode == 6
    assert "drew no page: KeyboardInterrupt: SIGINT; python -m telemetry.page " in errors
    assert ending(tmp_path / "out")["exit_code"] == 6
