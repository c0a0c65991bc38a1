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
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from telemetry.tensorboard import ScalarWriter

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
    and timing-*.discarded.jsonl, and so does, as it is, a last line that was cut short. One process calls
    this, before any process writes a row. Killed half-way it can be called again: a row may then stand
    twice among the discarded ones, but none is lost. Returns the number of discarded lines.
    """
    paths = [run_dir / "metrics.jsonl", *sorted(run_dir.glob("timing-*.jsonl"))]
    return sum(
        _discard_after(path, step) for path in paths if path.exists() and ".discarded" not in path.name
    )


def _discard_after(path: Path, step: int) -> int:
    content = path.read_bytes()
    kept: list[bytes] = []
    discarded: list[bytes] = []
    for line, row in _parse(content, path):
        (kept if row is not None and row["step"] <= step else discarded).append(line + b"\n")
    if discarded:
        with open(path.with_suffix(".discarded.jsonl"), "ab") as file:
            file.writelines(discarded)
            file.flush()
            os.fsync(file.fileno())
    if b"".join(kept) != content:
        _write_atomically(path, b"".join(kept))
    return len(discarded)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file. A last line that is still being written, or was cut short, is left out.

    Raises FileNotFoundError if there is no such file, ValueError if another line is not a JSON object.
    """
    return [row for _, row in _parse(path.read_bytes(), path) if row is not None]


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented, strict JSON (see the head of this module), whole or not at all."""
    _write_atomically(path, json.dumps(_strict(value), indent=2, allow_nan=False).encode() + b"\n")


def write_status(run_dir: Path, state: str, step: int, reason: str | None = None) -> None:
    """Write status.json: the state (one of STATES), the steps done, and why where that needs saying."""
    if state not in STATES:
        raise ValueError(f"status: found {state!r}, expected one of {', '.join(STATES)}")
    write_json(run_dir / "status.json", {"state": state, "step": step, "reason": reason})


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
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _last_step(path: Path) -> int:
    return max((row["step"] for row in read_rows(path)), default=0) if path.exists() else 0


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
