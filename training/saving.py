"""Checkpoints written in the background, one at a time: training waits for the copy of the state and no longer.

Memory is bounded by one more state, whose arrays are used again: memory that was touched before is copied to twice
as fast as fresh pages. The writer rests for as long as it works, since it shares the memory's bandwidth with the steps;
but not while something waits for it: the next save, or the end of the run.
"""

import errno
import os
import shutil
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from training import checkpoint
from training.problems import TrainingFailed
from training.state import State

NICENESS = 10
"""Where no core is free, steps come first. Not 19: MPI's ranks wait by spinning, and would leave it 1 % of a core."""
SPACE = (errno.ENOSPC, errno.EDQUOT)


class Saver:
    """The main process's writer. All methods are called in the training thread."""

    def __init__(self, folder: Path, recipe_id: str, keep: int) -> None:
        self.folder, self.recipe_id, self.keep = folder, recipe_id, keep
        self._thread: threading.Thread | None = None
        self._last = State(0, {}, {})
        self._is_awaited = threading.Event()
        self._error: BaseException | None = None
        self._row: dict[str, Any] = {}

    def spare(self) -> State:
        """Wait for the write in flight; then the state that was written, or an empty one, to be used again.

        Raises TrainingFailed where that write failed.
        """
        self.wait()
        return self._last

    def start(self, state: State, extra: dict, wait_s: float) -> None:
        """Write this state, whose arrays are the saver's from now on, while training goes on.

        extra: for the manifest; wait_s: for how long training has waited, for the record. Raises TrainingFailed
        where the write before failed.
        """
        self.wait()
        self._is_awaited.clear()
        self._last = state
        self._thread = threading.Thread(
            target=self._write, args=(state, extra, wait_s), name="saving", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is being written any more. Raises TrainingFailed where that write failed."""
        if self._thread is not None:
            self._is_awaited.set()
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raises TrainingFailed, once, where a write has failed. It waits for nothing: for every step."""
        if self._error is not None:
            error, self._error = self._error, None
            if isinstance(error, OSError):
                raise TrainingFailed(self._explained(error)) from error
            raise error

    def ended(self) -> dict[str, Any]:
        """Step and times of a write that has ended since the last call, for a row of timing; else nothing."""
        if not self._row:
            return {}
        row, self._row = self._row, {}
        return row

    def _write(self, state: State, extra: dict, wait_s: float) -> None:
        started = time.perf_counter()
        if sys.platform == "linux":  # where a thread has a priority of its own
            this = (os.PRIO_PROCESS, threading.get_native_id())
            with suppress(OSError):
                os.setpriority(*this, max(NICENESS, os.getpriority(*this)))
        try:
            checkpoint.save(
                self.folder,
                state,
                recipe_id=self.recipe_id,
                extra=extra,
                keep=self.keep,
                rest=self._is_awaited.wait,
            )
        except BaseException as error:  # it is raised in the training thread
            self._error = error
        else:
            write_s = time.perf_counter() - started
            self._row = {
                "checkpoint_step": state.step,
                "checkpoint_wait_s": wait_s,
                "checkpoint_write_s": write_s,
            }

    def _explained(self, error: OSError) -> str:
        """One line for the person whose disk it is."""
        path = self.folder / f"step-{self._last.step:08d}"
        needed_mib = checkpoint.bytes_needed(self._last) / 2**20
        kept = checkpoint.complete_steps(self.folder)
        return (
            f"{path}: the checkpoint could not be written ({error.strerror or error}); it needs {needed_mib:,.1f} "
            f"MiB, and {_free_mib(self.folder)} MiB are free; {_advice(error)}, then go on with --resume from "
            f"{f'step {kept[-1]}' if kept else 'the start'}"
        )


def _advice(error: OSError) -> str:
    if error.errno in SPACE:
        return "free some space or lower run.keep_checkpoints"
    return "make that directory writable again"


def _free_mib(folder: Path) -> str:
    nearest = next(each for each in (folder, *folder.absolute().parents) if os.path.exists(each))
    try:
        return f"{shutil.disk_usage(nearest).free / 2**20:,.1f}"
    except OSError:
        return "an unknown number of"
