import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.message import Culprit, Message, describe, find_culprit, reason_of

FAULTS = ("shape", "nan", "nan-gradient")
PROBES = [
    Path(__file__).parents[2] / "benchmarks" / f"errors_{framework}.py" for framework in ("torch", "tf")
]
CULPRIT = Culprit(Path("/home/someone/net.py"), 44)
MESSAGE = """Traceback (most recent call last):
  File "/home/someone/train.py", line 7, in step
    model(batch)
  File "/home/someone/net.py", line 44, in forward
    return self.c_proj(h)
           ^^^^^^^^^^^^^^
RuntimeError: mat1 and mat2 shapes cannot be multiplied (256x64 and 65x16)
"""


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ('  File "/home/someone/net.py", line 44, in forward', True),
        ("    + ...someone/net.py (L44) call", True),
        ("/home/someone/net.py:44: UserWarning: oh", True),
        ('  File "/home/someone/net.py", line 4, in forward', False),
        ('  File "/home/someone/net.py", line 444, in forward', False),
        ('  File "/home/someone/train.py", line 44, in step', False),
        ("  at line 44 of something like net.py", False),
    ],
)
def test_a_culprit_is_named_by_its_file_and_its_line(line: str, names: bool) -> None:
    assert CULPRIT.is_named_in(line) is names


def test_a_message_is_read_from_its_end() -> None:
    assert describe(Message(MESSAGE, "RuntimeError"), CULPRIT, (64, 65)) == {
        "raises": True,
        "error": "RuntimeError",
        "message_lines": 7,
        "names_culprit": True,
        "lines_from_end": 4,
        "shows_sizes": True,
        "last_line": "RuntimeError: mat1 and mat2 shapes cannot be multiplied (256x64 and 65x16)",
    }


def test_the_last_of_several_mentions_counts() -> None:
    assert describe(Message(MESSAGE * 2, "RuntimeError"), CULPRIT)["lines_from_end"] == 4


def test_sizes_stand_on_one_line() -> None:
    far_apart = Message("got [8, 64]\nwanted 65\n", "ValueError")
    assert describe(far_apart, CULPRIT, (64, 65))["shows_sizes"] is False
    assert describe(Message("164 and 65\n", "ValueError"), CULPRIT, (64, 65))["shows_sizes"] is False


def test_silence_is_not_an_error() -> None:
    silent = describe(Message("", None), CULPRIT)
    assert (silent["raises"], silent["message_lines"], silent["lines_from_end"]) == (False, 0, None)
    assert (silent["last_line"], silent["shows_sizes"]) == (None, None)


def test_a_reason_is_the_beginning_in_plain_text() -> None:
    error = ValueError("Exception when calling GPT.call().\n\n\x1b[1mbad length\x1b[0m\n\nArguments: …")
    assert reason_of(error) == "ValueError: Exception when calling GPT.call(). bad length"


def test_what_is_kept_is_what_python_would_print() -> None:
    """Warnings and what C code writes to the descriptor included, each time."""
    body = (
        "import os, warnings; from benchmarks.message import uncaught; said = []\n"
        "def body():\n    os.write(2, b'C++ says hello\\n'); warnings.warn('look out'); {}['key']\n"
    )
    uncaught = subprocess.run([sys.executable, "-c", f"{body}body()"], capture_output=True, text=True)
    assert "C++ says hello" in uncaught.stderr and "look out" in uncaught.stderr
    program = f"{body}for _ in range(2):\n  with uncaught() as heard: body()\n  said += heard\n"
    program += "assert said[0] == said[1]; print(said[0].error, said[0].reason); print(said[0].text)"
    kept = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert kept.stderr == ""
    first, *lines = kept.stdout.splitlines()
    assert first == "KeyError KeyError: 'key'"
    shown = [line for line in lines if line and "<module>" not in line]
    assert shown == [line for line in uncaught.stderr.splitlines() if "<module>" not in line]


@pytest.mark.parametrize("fault", FAULTS)
def test_both_probes_plant_the_same_faults(fault: str) -> None:
    lines = [find_culprit(probe, fault) for probe in PROBES]
    codes = [culprit.path.read_text().splitlines()[culprit.line - 1] for culprit in lines]
    assert codes[0].replace("torch.", "").strip() == codes[1].replace("tf.", "").replace("math.", "").strip()


def test_a_fault_that_is_not_planted_is_an_error() -> None:
    with pytest.raises(ValueError, match="found 0 lines marked # planted: typo"):
        find_culprit(PROBES[0], "typo")
