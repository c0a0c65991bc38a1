"""The rows and small files of a run directory.

    metrics.jsonl          one JSON object a logged step, written by one rank
    timing-<rank>.jsonl    one JSON object a timing window, written by every rank
    status.json            running | completed | preempted | failed, the step, the reason
    tensorboard/           the numbers of metrics.jsonl once more

JSON has no word for a float that is not finite. Such a value is written as null, and a second key says
which one it was: a diverged loss reads `"loss": null, "loss_nonfinite": "nan"` (or "inf", "-inf"). So any
JSON parser reads every line, and null alone goes on meaning unknown.

Only the standard library is imported here: what TensorBoard needs is imported with the first metrics row.
"""

import contextlib
import errno
import json
import math
import os
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

if TYPE_CHECKING:
    from telemetry.tensorboard import ScalarWriter

DISCARDED = ".discarded.jsonl"
STATES = ("running", "completed", "preempted", "failed")


class RunLog:
    """Writes one process's rows of a run.

    rank: this process's rank, which names its timing file.
    writes_metrics: whether this process writes metrics.jsonl and tensorboard/ (one process of a run does).
    resume: append to what is there. Before that, one process calls `discard_after`.

    Raises FileExistsError if there are rows already and `resume` is false.
    """

    def __init__(self, run_dir: Path, rank: int, writes_metrics: bool, resume: bool) -> None:
        self._run_dir = run_dir
        self._metrics_path = run_dir / "metrics.jsonl"
        self._timing_path = run_dir / f"timing-{rank}.jsonl"
        written = [self._timing_path, self._metrics_path] if writes_metrics else [self._timing_path]
        for path in written:
            if path.exists() and not resume:
                raise FileExistsError(
                    f"{path}: found rows of an earlier run; resume that run or choose another directory"
                )
        self._purge_step = _last_step(self._metrics_path) + 1 if resume and writes_metrics else None
        self._metrics_file: TextIO | None = None
        if writes_metrics:
            self._metrics_file = open(self._metrics_path, "a")  # noqa: SIM115 (open as long as the run)
        self._timing_lines: list[str] = []
        self._scalars: ScalarWriter | None = None

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Write a row (it has "step") if this process writes metrics, and the timing rows in any case."""
        if self._metrics_file is not None:
            self._metrics_file.write(_line(row))
            self._metrics_file.flush()
            self._write_scalars(row)
        self._flush_timing()

    def timing(self, row: Mapping[str, Any]) -> None:
        """Keep a row (it has "step") until the next `metrics` or `close`."""
        self._timing_lines.append(_line(row))

    def close(self) -> None:
        """Write what is still held and close the files. A second call does nothing."""
        with contextlib.ExitStack() as files:  # a disk that refuses one's rows does not keep the others open
            for file in (self._metrics_file, self._scalars):
                if file is not None:
                    files.callback(file.close)
            self._metrics_file = self._scalars = None
            self._flush_timing()

    def _write_scalars(self, row: Mapping[str, Any]) -> None:
        if self._scalars is None:
            from telemetry.tensorboard import ScalarWriter

            self._scalars = ScalarWriter(self._run_dir / "tensorboard", self._purge_step)
        self._scalars.write(row["step"], row)

    def _flush_timing(self) -> None:
        if self._timing_lines:
            # Opened no earlier: until step 1 `discard_after` in another process may replace the file.
            lines, self._timing_lines = self._timing_lines, []
            with open(self._timing_path, "a") as file:
                file.writelines(lines)


def discard_after(run_dir: Path, step: int) -> int:
    """Move the rows of later steps aside for a run that resumes at `step`, so that each step stands once.

    Rows of metrics.jsonl and timing-*.jsonl with a greater step go to the end of metrics.discarded.jsonl
    and timing-*.discarded.jsonl, and so does, as it is, a line that is damaged or cut short or has no step. One
    process calls this, before any process writes a row. Killed half-way it can be called again: a row may then
    stand twice among the discarded ones, but none is lost. Returns the number of discarded lines.

    Raises OSError, having changed nothing, where something else than a file has one of these names.
    """
    paths = [run_dir / "metrics.jsonl", *sorted(run_dir.glob("timing-*.jsonl"))]
    written = [path for path in paths if ".discarded" not in path.name]
    for path in (*written, *(path.with_suffix(DISCARDED) for path in written)):
        if os.path.lexists(path) and not path.is_file():  # a pipe would be waited for, a link led nowhere
            raise FileExistsError(errno.EEXIST, "found something else than a file; move it away", str(path))
    return sum(_discard_after(path, step) for path in written if path.exists())


def _discard_after(path: Path, step: int) -> int:
    content = path.read_bytes()
    kept: list[bytes] = []
    discarded: list[bytes] = []
    for line in content.removesuffix(b"\n").split(b"\n") if content else ():
        row_step = (parse_row(line) or {}).get("step")
        stays = type(row_step) is int and row_step <= step
        (kept if stays else discarded).append(line + b"\n")
    if discarded:
        with open(path.with_suffix(DISCARDED), "a+b") as file:
            if _ends_within_a_line(file):  # one who did this before was killed in the middle
                file.write(b"\n")
            file.writelines(discarded)
            file.flush()
            os.fsync(file.fileno())
    if b"".join(kept) != content:
        _write_atomically(path, b"".join(kept))
    return len(discarded)


def _ends_within_a_line(file: BinaryIO) -> bool:
    if not (size := file.seek(0, os.SEEK_END)):
        return False
    file.seek(size - 1)
    return file.read(1) != b"\n"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file. A last line that is still being written, or was cut short, is left out.

    Raises FileNotFoundError if there is no such file, ValueError if another line is not a JSON object.
    """
    return [row for _, row in _parse(read_file(path), path) if row is not None]


def read_file(path: Path) -> bytes:
    """The content of a file. Raises OSError, also for what is none: a pipe would be waited for."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "found something else than a file", str(path))
    return path.read_bytes()


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises OSError where none can be read, ValueError where it is no JSON."""
    try:
        return json.loads(read_file(path))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented, strict JSON (see the head of this module), whole or not at all."""
    _write_atomically(path, json.dumps(_strict(value), indent=2, allow_nan=False).encode() + b"\n")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where none can be read."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_status(run_dir: Path) -> dict[str, Any]:
    """What status.json says; an empty dict where it says nothing that can be read."""
    return read_object(run_dir / "status.json")


def write_status(
    run_dir: Path, state: str, step: int, reason: str | None = None, would_repeat: bool = False
) -> None:
    """Write status.json: the state (one of STATES), the steps done, and why where that needs saying.

    would_repeat: this failure would come again if the run went on from its last checkpoint. Raises OSError.
    """
    if state not in STATES:
        raise ValueError(f"status: found {state!r}, expected one of {', '.join(STATES)}")
    content: dict[str, object] = {"state": state, "step": step, "reason": reason}
    content |= {"would_repeat": True} if would_repeat else {}
    path = run_dir / "status.json"
    try:
        write_json(path, content)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not path.is_file():
            raise
        # A full disk has room for what a file has already. Not atomic, but better than "running" for ever.
        with open(path, "r+b") as file:
            file.write(json.dumps(content).encode())
            file.truncate()


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(_strict(row), allow_nan=False) + "\n"


def _strict(value: Any) -> Any:
    """`value` with NumPy's numbers and arrays as Python's, and a note on each float that is not finite.

    In a list there is no key to hold the note, so there json raises ValueError.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    strict: dict[str, Any] = {}
    for name, item in value.items():
        item = strict[name] = _strict(item)
        if isinstance(item, float) and not math.isfinite(item):
            strict[name] = None
            strict[f"{name}_nonfinite"] = str(float(item))
    return strict


def _parse(content: bytes, path: Path) -> list[tuple[bytes, dict[str, Any] | None]]:
    """Each line with its row; the row of a last line that was cut short is None."""
    *lines, tail = content.split(b"\n")
    parsed: list[tuple[bytes, dict[str, Any] | None]] = []
    for number, line in enumerate(lines, start=1):
        row = parse_row(line)
        if row is None:
            raise ValueError(f"{path}: line {number} is no JSON object; mend or remove that line")
        parsed.append((line, row))
    return [*parsed, (tail, parse_row(tail))] if tail else parsed


def parse_row(line: bytes | str) -> dict[str, Any] | None:
    """The JSON object on one line; None for what is none, such as a line that was cut short."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _last_step(path: Path) -> int:
    if not path.exists():
        return 0
    return max((row["step"] for row in read_rows(path) if type(row.get("step")) is int), default=0)


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # without it the rename itself may be lost with the power
    finally:
        os.close(directory)
