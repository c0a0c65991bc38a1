"""What an error looks like to a person: how much is printed, and how far from its end the culprit stands."""

import contextlib
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "# planted: "
"""Ends, with the fault's name, the line of a probe that goes wrong."""


MOST_CHARACTERS = 240
"""Of a reason, in a report."""


@dataclass(frozen=True)
class Culprit:
    """The line of source that goes wrong, numbered from 1."""

    path: Path
    line: int

    def is_named_in(self, text: str) -> bool:
        """Whether a line of output has this file and this line number, spelt `line N`, `(LN)` or `:N`."""
        spelt = rf"{re.escape(self.path.name)}\W{{1,4}}(?:line |L)?{self.line}(?!\d)"
        return re.search(spelt, text) is not None


@dataclass(frozen=True)
class Message:
    """What a person saw. `error` is the type of what was raised, `reason` how it begins; None if nothing was."""

    text: str
    error: str | None
    reason: str | None = None


def find_culprit(path: Path, fault: str) -> Culprit:
    """The line marked `# planted: FAULT`. Raises ValueError unless there is exactly one."""
    lines = path.read_text().splitlines()
    found = [number for number, line in enumerate(lines, 1) if line.endswith(f"{MARK}{fault}")]
    if len(found) != 1:
        raise ValueError(f"{path}: found {len(found)} lines marked {MARK}{fault}, expected one")
    return Culprit(path, found[0])


def describe(message: Message, culprit: Culprit, sizes: tuple[int, int] | None = None) -> dict:
    """What a report says of a message.

    message_lines: lines on standard error. lines_from_end: how many of the last ones a person reads up to the one
    that names the culprit's file and line, 1 if it is the last, None if there is none. shows_sizes: whether one
    line has both numbers of `sizes`, None where no sizes clash.
    """
    lines = message.text.rstrip().splitlines()
    named = [number for number, line in enumerate(lines) if culprit.is_named_in(line)]
    return {
        "raises": message.error is not None,
        "error": message.error,
        "message_lines": len(lines),
        "names_culprit": bool(named),
        "lines_from_end": len(lines) - named[-1] if named else None,
        "shows_sizes": None if sizes is None else any(_has_all(line, sizes) for line in lines),
        "last_line": lines[-1].strip() if lines else None,
    }


def _has_all(line: str, numbers: tuple[int, ...]) -> bool:
    return all(re.search(rf"(?<!\d){number}(?!\d)", line) for number in numbers)


def reason_of(problem: BaseException) -> str:
    """The type and the first two lines with words of what was raised, without codes for colours."""
    text = re.sub(r"\x1b\[\d*m", "", str(problem))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{type(problem).__name__}: {' '.join(lines[:2])}"[:MOST_CHARACTERS]


@contextlib.contextmanager
def uncaught() -> Iterator[list[Message]]:
    """Runs its body as if it were a whole program; the list then holds the one Message of it.

    All that this process writes to standard error is kept, C++ libraries included, and an exception is printed as
    Python prints one that nothing catches, only without the frames above this one.
    """
    said: list[Message] = []
    error = reason = None
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            with warnings.catch_warnings():  # a warning that was told before is told again
                yield said
        except Exception as problem:
            error, reason = type(problem).__name__, reason_of(problem)
            frames = problem.__traceback__ and problem.__traceback__.tb_next  # without this one
            sys.__excepthook__(type(problem), problem.with_traceback(frames), frames)
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
        kept.seek(0)
        said.append(Message(kept.read().decode(errors="replace"), error, reason))
