"""What a study measured of its steps, as `scaling.predict` needs it: STUDY_DIR/measured.json.

    {"format": 1, "cases": [{
        "recipe": "stdlib-gpt",             name, for people
        "recipe_values": {...},             the recipe as run.json has it under "recipe"
        "strategy": "torch-ddp",            one of the six, with an exchange
        "scaling": "weak",                  or "strong"
        "global_batch": 24,                 samples a step of all `compute_workers` workers together
        "compute_workers": 1,               how many share that batch in compute_s (default 1)
        "accumulation": 1,                  micro-batches a worker and step in compute_s (default 1)
        "compute_s": [0.101, 0.102],        seconds of one worker's step without exchange, one median a repetition
        "update_s": null,                   the optimizer's part of compute_s (null: unknown, taken as computing)
        "jitter_s": null,                   standard deviation of single steps of one worker (null: compute_s tells)
        "steps": {"1": [0.1], "2": [0.11]}, workers -> seconds of a step with exchange, one median a repetition;
                                            "1" is the base: the -single strategy on one device
        "workers_per_node": null,           null: all of them on one node
        "links": {"in_node": {"latency_s": 1e-5, "bytes_per_s": 1e10}, "between_nodes": null}
    }]}

`links` or either of its two may be null or missing: what is not measured is fitted to `steps` or given by flags.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from recipes.checking import RecipeError
from recipes.recipe import Recipe, from_dict
from scaling.links import Link
from training.problems import UsageError

FILE_NAME = "measured.json"
FORMAT = 1
STRATEGIES = ("torch-ddp", "torch-horovod", "tf-mirrored", "tf-horovod")


@dataclass(frozen=True)
class Case:
    """One recipe under one strategy and one kind of scaling; times in seconds, one value a repetition."""

    recipe_name: str
    recipe: Recipe
    strategy: str
    scaling: str
    global_batch: int
    compute_s: tuple[float, ...]
    compute_workers: int = 1
    accumulation: int = 1
    update_s: float | None = None
    jitter_s: float | None = None
    steps_s: dict[int, tuple[float, ...]] = field(default_factory=dict)
    workers_per_node: int | None = None
    in_node: Link | None = None
    between_nodes: Link | None = None

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.recipe_name}, {self.strategy}, {self.scaling} scaling"

    def share(self, workers: int) -> float:
        """Samples of one of `workers` workers, as a part of what `compute_s` was measured with."""
        return 1.0 if self.scaling == "weak" else self.compute_workers / workers

    def samples(self, workers: int) -> float:
        """Samples of a step of all workers."""
        return self.global_batch / self.compute_workers * workers * self.share(workers)


@dataclass(frozen=True)
class Measured:
    """All cases of a study."""

    cases: tuple[Case, ...]


def measured(study_dir: Path) -> Measured:
    """Read STUDY_DIR/measured.json. Raises UsageError, one line, for a file or value that is not as described above."""
    path = study_dir / FILE_NAME
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UsageError(
            f"{path}: no such file; expected the directory of a study that measured its steps"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as JSON ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise UsageError(f"{path}: format: found {found!r}, expected {FORMAT}")
    cases = content.get("cases")
    if not isinstance(cases, list) or not cases:
        raise UsageError(f"{path}: cases: found {cases!r}, expected a list of at least one case")
    return Measured(tuple(_Reader(f"{path}: cases[{i}]", case).case() for i, case in enumerate(cases)))


class _Reader:
    """Takes one case apart; `where` leads every complaint."""

    def __init__(self, where: str, content: Any) -> None:
        self.where = where
        if not isinstance(content, dict):
            raise UsageError(f"{where}: found {content!r}, expected an object")
        self.content = content

    def case(self) -> Case:
        links = self.content.get("links") or {}
        if not isinstance(links, dict):
            raise self._wrong("links", links, "an object or null")
        update_s = self._number("update_s", None, lowest=0.0)
        compute_s = self._times("compute_s", self.content.get("compute_s"))
        if update_s is not None and update_s >= min(compute_s):
            raise self._wrong("update_s", update_s, "less than every compute_s, which contains it")
        return Case(
            recipe_name=self._one_of("recipe", ()),
            recipe=self._recipe(),
            strategy=self._one_of("strategy", STRATEGIES),
            scaling=self._one_of("scaling", ("weak", "strong")),
            global_batch=self._count("global_batch", None),
            compute_s=compute_s,
            compute_workers=self._count("compute_workers", 1),
            accumulation=self._count("accumulation", 1),
            update_s=update_s,
            jitter_s=self._number("jitter_s", None, lowest=0.0),
            steps_s=self._steps(),
            workers_per_node=self._count("workers_per_node", None, may_be_null=True) or None,
            in_node=self._link(links, "in_node"),
            between_nodes=self._link(links, "between_nodes"),
        )

    def _wrong(self, key: str, found: object, expected: str) -> UsageError:
        return UsageError(f"{self.where}.{key}: found {found!r}, expected {expected}")

    def _one_of(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self.content.get(key)
        if not isinstance(value, str) or (allowed and value not in allowed):
            raise self._wrong(key, value, f"one of: {', '.join(allowed)}" if allowed else "a name")
        return value

    def _recipe(self) -> Recipe:
        values = self.content.get("recipe_values")
        if not isinstance(values, dict):
            raise self._wrong("recipe_values", values, "the recipe as run.json has it")
        try:
            return from_dict(values)
        except RecipeError as error:
            raise UsageError(f"{self.where}.recipe_values: {error}") from None

    def _count(self, key: str, default: int | None, *, may_be_null: bool = False) -> int:
        value = self.content.get(key)
        value = default if value is None else value
        if value is None and may_be_null:
            return 0
        if type(value) is not int or value < 1:
            raise self._wrong(key, value, "a whole number of at least 1")
        return value

    def _number(self, key: str, default: float | None, lowest: float) -> float | None:
        value = self.content.get(key, default)
        if value is None:
            return None
        if not _is_number(value) or value < lowest:
            raise self._wrong(key, value, f"a number of at least {lowest:g}, or null")
        return float(value)

    def _times(self, key: str, values: Any) -> tuple[float, ...]:
        if (
            not isinstance(values, list)
            or not values
            or not all(_is_number(item) and item > 0 for item in values)
        ):
            raise self._wrong(key, values, "a list of seconds above 0, one a repetition")
        return tuple(float(item) for item in values)

    def _steps(self) -> dict[int, tuple[float, ...]]:
        steps = self.content.get("steps") or {}
        if not isinstance(steps, dict) or not all(key.isdecimal() and int(key) > 0 for key in steps):
            raise self._wrong("steps", steps, 'an object such as {"2": [0.1]}: workers and seconds')
        found = {int(key): self._times(f"steps.{key}", values) for key, values in steps.items()}
        return dict(sorted(found.items()))

    def _link(self, links: dict, key: str) -> Link | None:
        link = links.get(key)
        if link is None:
            return None
        latency_s, bytes_per_s = (
            (link.get("latency_s"), link.get("bytes_per_s")) if isinstance(link, dict) else (None, None)
        )
        if not (_is_number(latency_s) and _is_number(bytes_per_s) and latency_s >= 0 and bytes_per_s > 0):
            raise self._wrong(
                f"links.{key}", link, 'an object such as {"latency_s": 1e-5, "bytes_per_s": 1e10}'
            )
        return Link(float(latency_s), float(bytes_per_s))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
