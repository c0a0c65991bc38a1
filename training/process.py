"""A training process and its ending: no orphans, no tracebacks as messages, exit codes that mean something."""

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from data.errors import DataError
from recipes.checking import RecipeError
from telemetry.run_log import write_status
from training import ending
from training.advice import DISK, advice
from training.options import warn
from training.problems import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_STOPPED_EARLY,
    EXIT_USAGE,
    NotRestarted,
    TrainingFailed,
    UsageError,
)

PR_SET_PDEATHSIG = 1
HEAD_START_S = 1.0
"""By how much rank 0 may be late with its line; a launcher ends all ranks when the first is gone."""
LAUNCHED_BY = "TRIMARAN_LAUNCHER"
"""Set by launchers.train, which reads the ending of a run from status.json."""


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies, so that a launcher killed with -9 leaves no orphans."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the request
        os._exit(EXIT_FAILED)


def guarded(main: Callable[[], int], rank: int = 0) -> int:
    """Run `main` and turn every way it can fail into one line and an exit code.

    Mistakes of usage end with 2 and are told by rank 0 alone, since every worker finds the same one.
    """
    try:
        code = main()
        if code == EXIT_FAILED:
            sys.stderr.flush()
            os._exit(code)  # the other ranks may hang in a collective that this one's clean-up would wait for
        return EXIT_DONE if code == EXIT_STOPPED_EARLY and _is_launched() else code
    except NotRestarted as error:
        _tell_once(error, rank)
        return EXIT_DONE if _is_launched() else error.code
    except (UsageError, RecipeError, DataError) as error:
        _tell_once(error, rank)
        return EXIT_USAGE
    except ModuleNotFoundError as error:
        extra = {"torch": "torch", "tensorflow": "tensorflow", "keras": "tensorflow"}.get(error.name or "")
        if extra is None:
            raise
        if rank == 0:
            warn(f"{error.name}: not installed for {sys.executable}; run pip install -e '.[{extra}]' with it")
        return EXIT_USAGE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        reason = _reason(error)
        if advice(reason) is None:
            raise
        warn(f"rank {rank} failed before its first step: {reason}")
        sys.stderr.flush()
        os._exit(EXIT_FAILED)


def leave(code: int) -> NoReturn:
    """End this process with `code`, now that everything is written and the group is left.

    Python's own way out frees the frameworks' objects while their threads still run: a DDP rank that was done aborted
    there in 1 of some 50 runs on busy cores, and its launcher took the run for a failed one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def report_failure(run_dir: Path, rank: int, step: int, error: BaseException) -> int:
    """Record why this rank failed: traceback in failure-<rank>.txt, status.json, one line. Returns the exit code.

    The first rank to fail has the cause; status.json keeps its word, since the others fail because it is gone.
    """
    line = f"rank {rank} failed at step {step}: {_reason(error)}"
    note = run_dir / f"failure-{rank}.txt"
    would_repeat = isinstance(error, TrainingFailed) or advice(_reason(error)) == DISK
    told = ""
    try:
        if ending.state_of(run_dir) != "failed":
            write_status(run_dir, "failed", step, line, would_repeat)
        note.write_text(f"{line}\n\n{''.join(traceback.format_exception(error))}")
        told = f" (traceback in {note})"
    except OSError as second:
        told = f" (and {run_dir} cannot be written: {second.strerror})"
    warn(line + told)
    return EXIT_FAILED


def _reason(error: BaseException) -> str:
    """The error in one line, with what to do about it where that is known."""
    words = " ".join(str(error).split())
    if isinstance(error, TrainingFailed):
        return words
    reason = f"{type(error).__name__}: {words}"
    what = advice(reason)
    return f"{reason}; {what}" if what else reason


def _tell_once(error: BaseException, rank: int) -> None:
    if rank == 0:
        warn(str(error))
    else:
        time.sleep(HEAD_START_S)


def _is_launched() -> bool:
    """Whether launchers.train reads from status.json how we ended: torchrun and its kind take 75 for a crash."""
    return os.environ.get(LAUNCHED_BY, "direct") != "direct"
