"""What a study has done so far: a small file a run, and study.json, which is put together from them.

Each run has its own file, so that jobs on different nodes may work on one study at the same time.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scaling.grid import Planned
from telemetry.run_log import read_json, write_json
from training.problems import UsageError

FORMAT = 1
FREE = (
    "recipes",
    "strategies",
    "workers",
    "nodes",
    "workers_per_node",
    "scaling",
    "repetitions",
    "decompose",
)
"""What may be asked for anew when a study goes on: it then has more runs, or leaves some alone."""


@dataclass(frozen=True)
class Ledger:
    """A study's directory."""

    folder: Path

    def directory(self, run: Planned) -> Path:
        """Of a run."""
        return self.folder / "runs" / run.id

    def open(self, name: str, settings: Mapping[str, Any]) -> None:
        """Begin the study, or go on with it. Raises UsageError where it was begun with other settings."""
        path = self.folder / "settings.json"
        (self.folder / "runs").mkdir(parents=True, exist_ok=True)
        fixed = {key: value for key, value in settings.items() if key not in FREE}
        if path.exists():
            before = _settings(path)["fixed"]
            for key in before.keys() | fixed.keys():
                if before.get(key) != fixed.get(key):
                    raise UsageError(
                        f"--{key.replace('_', '-')}: found {fixed.get(key)!r}, but {self.folder} was begun with "
                        f"{before.get(key)!r}; choose another --name, or that value"
                    )
            return
        write_json(path, {"format": FORMAT, "name": name, "started_unix_s": time.time(), "fixed": fixed})

    def ending(self, run: Planned) -> dict[str, Any] | None:
        """How a run ended, None if it did not yet."""
        ended = _read(self._path(run)) or {}
        return ended if ended.get("state") in ("completed", "failed") else None

    def record(self, run: Planned, order: int, why_failed: str, wall_s: float) -> None:
        """Write down how a run ended."""
        state = "failed" if why_failed else "completed"
        ending = {"state": state, "reason": why_failed or None, "wall_s": round(wall_s, 3), "order": order}
        write_json(self._path(run), {**_described(run, self.directory(run), self.folder), **ending})

    def forget(self, run: Planned) -> None:
        """A run that failed is to be tried again."""
        self._path(run).unlink(missing_ok=True)

    def collect(self, planned: Sequence[Planned]) -> dict[str, Any]:
        """study.json from the files of the runs: those planned now, and others that were planned before."""
        settings = _settings(self.folder / "settings.json")
        known = {run.id: _unplayed(run, self.directory(run), self.folder) for run in planned}
        for path in sorted((self.folder / "runs").glob("*.json")):
            ended = _read(path) or {}
            if isinstance(name := ended.get("id"), str):
                known[name] = ended
        study = {**settings, "runs": list(known.values())}
        write_json(self.folder / "study.json", study)
        return study

    def _path(self, run: Planned) -> Path:
        return self.folder / "runs" / f"{run.id}.json"


def _settings(path: Path) -> dict[str, Any]:
    """Raises UsageError where they cannot be read: nobody knows then what the study's runs were made with."""
    content = _read(path)
    if content is None or not isinstance(content.get("fixed"), dict):
        raise UsageError(
            f'{path}: found no settings of a study (JSON with "fixed"); restore it, or choose another --name'
        )
    return content


def _read(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _described(run: Planned, directory: Path, folder: Path) -> dict[str, Any]:
    return {"id": run.id, "directory": str(directory.relative_to(folder)), **asdict(run)}


def _unplayed(run: Planned, directory: Path, folder: Path) -> dict[str, Any]:
    nothing = {"state": "planned", "reason": None, "wall_s": None, "order": None}
    return {**_described(run, directory, folder), **nothing}
