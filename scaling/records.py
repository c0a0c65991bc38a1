"""One run of a study, read from its directory: what it was, how it ended, its step times on every rank."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from recipes.checking import shown
from scaling.steady import Steady, steady_start
from telemetry.plain_rows import printable
from telemetry.run_log import read_json, read_object, read_rows

STATES = ("completed", "failed", "planned")
SCALINGS = ("weak", "strong", "base")
TIMES = ("step_time_s", "data_time_s")
LONGEST_S = 1e9
"""Of a step; beyond it (30 years) sums of squares are no numbers any more."""


@dataclass(frozen=True, eq=False)
class Record:
    """A run as its study planned it, with what its directory holds.

    state: one of STATES; `reason` says in one line why it is not "completed". Then the rest may be empty.
    fingerprint: the content of run.json.
    steps: [windows] the last step of each window; step_time_s, data_time_s: [ranks, windows], seconds a step.
    losses: training loss by step, None where it was not finite. energy_per_sample_j: None where it is unknown.
    """

    id: str
    recipe: str
    strategy: str
    workers: int
    nodes: int
    scaling: str
    repetition: int
    exchange: bool
    state: str
    reason: str | None = None
    fingerprint: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    steps: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    step_time_s: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    data_time_s: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    losses: dict[int, float | None] = field(default_factory=dict)
    tokens_per_step: float | None = None
    steady: Steady = field(default_factory=lambda: Steady(None))

    @property
    def is_usable(self) -> bool:
        """Whether its steady step time may stand for it."""
        return self.state == "completed" and self.steady.start is not None

    @property
    def framework(self) -> str:
        """`torch` or `tf`: its -single strategy is the base."""
        return self.strategy.partition("-")[0]

    @property
    def global_batch(self) -> int | None:
        """Samples a step; None where run.json could not be read."""
        return self.fingerprint["recipe"]["data"]["global_batch"] if self.fingerprint else None

    @property
    def oversubscribed(self) -> bool:
        """More workers than cores: its times mean nothing for scaling."""
        return bool(self.fingerprint and self.fingerprint["segments"][-1].get("oversubscribed"))

    @property
    def energy_per_sample_j(self) -> float | None:
        """Joules a sample, of all devices."""
        value = self.summary.get("energy_per_sample_j")
        return float(value) if _is_finite(value) else None

    @property
    def steady_step_time_s(self) -> np.ndarray:
        """[ranks, steady windows]"""
        return self.step_time_s[:, self.steady.start :]

    @property
    def steady_data_time_s(self) -> np.ndarray:
        """[ranks, steady windows]"""
        return self.data_time_s[:, self.steady.start :]

    @property
    def step_s(self) -> float | None:
        """The median over the steady windows of the slowest rank's step time; None where it is not steady."""
        return float(np.median(self.steady_step_time_s.max(axis=0))) if self.is_usable else None

    @property
    def samples_per_s(self) -> float | None:
        """The global batch over `step_s`: what all workers did together, at the pace of the slowest."""
        return self.global_batch / self.step_s if self.global_batch and self.step_s else None

    @property
    def tokens_per_s(self) -> float | None:
        """None for images."""
        return self.tokens_per_step / self.step_s if self.tokens_per_step and self.step_s else None


def _is_finite(value: object) -> TypeGuard[float]:
    """Whether it is a number that a float can hold; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def _is_step(value: object) -> bool:
    return type(value) is int and 1 <= value < 2**63


def _is_time(value: object) -> bool:
    """Seconds, that is; those below 0 are told as not steady."""
    return _is_finite(value) and abs(value) < LONGEST_S


class Unreadable(Exception):
    """One line: the file, what was found, what was expected."""


def read_record(study_dir: Path, planned: Mapping[str, Any]) -> Record:
    """Read the run of one entry of study.json. Never raises for what the directory lacks: the record says it."""
    names = ("id", "recipe", "strategy", "workers", "nodes", "scaling", "repetition", "exchange")
    what = {name: planned[name] for name in names}
    if planned["state"] == "planned":
        return Record(**what, state="planned", reason=_one_line(planned.get("reason") or "was not started"))
    run_dir = study_dir / planned["directory"]
    content: dict[str, Any] = {}
    reason = _why_not_completed(run_dir / "status.json", planned)
    try:
        content["fingerprint"] = _read_fingerprint(run_dir / "run.json", planned)
        content["losses"], content["tokens_per_step"] = _read_metrics(run_dir / "metrics.jsonl")
        content["summary"] = read_object(run_dir / "summary.json")  # without it a run is as good as any
        content |= _read_timing(run_dir, planned)
        content["steady"] = steady_start(content["step_time_s"].max(axis=0))
    except Unreadable as problem:
        reason = reason or str(problem)
    if reason:
        return Record(**what, **content, state="failed", reason=reason)
    return Record(**what, **content, state="completed", reason=content["steady"].reason)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise Unreadable(f"{path.name}: not found") from None
    except (OSError, ValueError) as error:
        raise Unreadable(f"{path.name}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise Unreadable(f"{path.name}: found {type(content).__name__}, expected an object")
    return content


def _read_fingerprint(path: Path, planned: Mapping[str, Any]) -> dict[str, Any]:
    content = _read_json(path)
    try:
        batch, starts = content["recipe"]["data"]["global_batch"], content["segments"]
        complete = (
            _is_finite(batch) and batch >= 1 and isinstance(starts, list) and isinstance(starts[-1], dict)
        )
    except (LookupError, TypeError):
        complete = False
    if not complete:
        raise Unreadable(f"{path.name}: found no recipe.data.global_batch or no segments, expected both")
    if len(starts) > 1:
        raise Unreadable(
            f"{path.name}: found {len(starts)} starts, expected one: a resumed run has no one pace"
        )
    for key in ("strategy", "workers", "exchange"):
        if content.get(key, planned[key]) != planned[key]:
            raise Unreadable(
                f"{path.name}: {key}: found {shown(content[key])}, expected {planned[key]!r} as planned"
            )
    return content


def _why_not_completed(path: Path, planned: Mapping[str, Any]) -> str | None:
    """What study.json or status.json says of a run that did not reach its end."""
    try:
        status = _read_json(path)
    except Unreadable as problem:
        return _one_line(planned.get("reason") or problem)
    reason = _one_line(planned.get("reason") or status.get("reason") or "no reason given")
    if planned["state"] != "completed":
        return reason
    if status.get("state") != "completed":
        return f"{path.name}: found {shown(status.get('state'))} ({reason}), expected 'completed'"
    return None


def _one_line(reason: object) -> str:
    """What others wrote down, as a line that can be shown."""
    line = str(reason).strip().partition("\n")[0] if isinstance(reason, str | Exception) else shown(reason)
    return printable(line) or "no reason given"


def _read_metrics(path: Path) -> tuple[dict[int, float | None], float | None]:
    """The losses by step, and the tokens a step over the whole run."""
    rows = [row for row in _rows(path) if "loss" in row]
    for row in rows:
        numbers = [number for number in (row["loss"], row.get("tokens")) if number is not None]
        if not (_is_step(row.get("step")) and all(map(_is_finite, numbers))):
            raise Unreadable(
                f"{path.name}: found a row without step, or with a loss or tokens that are no number"
            )
    losses = {row["step"]: row["loss"] for row in rows}
    tokens = rows[-1].get("tokens") if rows else None
    return losses, tokens / rows[-1]["step"] if tokens else None


def _read_timing(run_dir: Path, planned: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The windows that every rank logged; the last line of one may be cut short."""
    paths = {
        int(path.stem.removeprefix("timing-")): path
        for path in run_dir.glob("timing-*.jsonl")
        if path.stem.removeprefix("timing-").isdecimal()
    }
    missing = [rank for rank in range(_processes(planned, len(paths))) if rank not in paths]
    if missing:
        raise Unreadable(f"timing-{missing[0]}.jsonl: not found, expected {planned['workers']} ranks' files")
    by_rank = []
    for _, path in sorted(paths.items()):
        rows = [row for row in _rows(path) if not row.get("profiled")]  # a profiler was at work
        if not all(
            _is_step(row.get("step")) and all(_is_time(row.get(name)) for name in TIMES) for row in rows
        ):
            raise Unreadable(f"{path.name}: found a row without step, step_time_s or data_time_s")
        by_rank.append({row["step"]: tuple(float(row[name]) for name in TIMES) for row in rows})
    steps = sorted(set.intersection(*(set(windows) for windows in by_rank)))
    if not steps:
        raise Unreadable("timing-*.jsonl: found no step that all ranks logged, expected at least one")
    times = np.array([[windows[step] for step in steps] for windows in by_rank])
    return {"steps": np.array(steps), "step_time_s": times[..., 0], "data_time_s": times[..., 1]}


def _processes(planned: Mapping[str, Any], found: int) -> int:
    """How many timing files there must be; tf-mirrored may drive all the workers of a node in one process."""
    if planned["strategy"] == "tf-mirrored":
        return max(found, planned["nodes"])
    return planned["workers"]


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return read_rows(path)
    except FileNotFoundError:
        raise Unreadable(f"{path.name}: not found") from None
    except (OSError, ValueError) as error:
        raise Unreadable(_one_line(error).replace(f"{path.parent}/", "")) from None
