"""PyTorch or TensorFlow? The same recipe on both, from the runs of one study: pace, memory, the start, scaling, energy.

Pairs are what users choose between: the two -single strategies, torch-ddp and tf-mirrored, the two with Horovod.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling import frameworks_page
from scaling.details import Details, middle
from scaling.wording import UNKNOWN, mebibytes, milliseconds, percent, plain, recipe_name, size

PAIRS = (("torch-single", "tf-single"), ("torch-ddp", "tf-mirrored"), ("torch-horovod", "tf-horovod"))
COLUMNS = (
    "recipe", "strategy", "size", "step", "efficiency", "memory of a process", "first step", "start to first step",
    "whole run", "energy a sample",
)  # fmt: skip

Case = Mapping[str, Any]
"""An entry of "cases" of analysis.json."""


@dataclass(frozen=True)
class Frameworks:
    """What scaling.frameworks measured. tables: (title, note, rows)."""

    provenance: str
    problems: list[str]
    tables: list[tuple[str, str, list[dict[str, str]]]]


def read_frameworks(study_dir: Path) -> Frameworks | None:
    """frameworks.json of the study's directory, or of the folder `frameworks` beside it; None where neither is one."""
    for path in (
        study_dir / "frameworks.json",
        study_dir.absolute().parent / "frameworks" / "frameworks.json",
    ):
        try:
            result = json.loads(path.read_bytes())
            tables = [
                (table.title, table.note, [dict(zip(table.header, row, strict=True)) for row in table.rows])
                for table in frameworks_page.tables(result)
            ]
            problems = [f"{one['framework']} {one['probe']}: {one['problem']}" for one in result["problems"]]
            provenance = frameworks_page.provenance(result).replace("`", "")
            return Frameworks(provenance, problems, [table for table in tables if table[2]])
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return None


def versus_rows(cases: Iterable[Case], details: Mapping[str, Details]) -> list[dict[str, str]]:
    """For each recipe and pair, where both were run, a row each: at one device, and at the most workers of both."""
    rows = []
    for first, second in paired(cases):
        rows += [_row(case, [details[run["id"]] for run in case["runs"]]) for case in (first, second)]
    return rows


def paired(cases: Iterable[Case]) -> list[tuple[Case, Case]]:
    """(PyTorch's, TensorFlow's) of equal recipe, way of scaling, size and batch."""
    known: dict[tuple, dict[str, Case]] = {}
    for case in cases:
        if case["step_time_s"] and not case["oversubscribed"]:
            key = tuple(case[name] for name in ("recipe", "scaling", "workers", "nodes", "global_batch"))
            known.setdefault(key, {})[case["strategy"]] = case
    found: list[tuple[Case, Case]] = []
    for torch, tf in PAIRS:
        of_ways: dict[tuple, tuple[Case, Case]] = {}
        for (recipe, scaling, workers, nodes, batch), mine in known.items():
            if torch in mine and tf in mine:
                key = (recipe, scaling, batch if scaling == "base" else None)
                old = of_ways.get(key)
                if old is None or (workers, nodes) > (old[0]["workers"], old[0]["nodes"]):
                    of_ways[key] = (mine[torch], mine[tf])
        found += of_ways.values()
    return sorted(found, key=lambda pair: pair[0]["recipe"])


def versus_sentences(cases: Iterable[Case]) -> list[str]:
    """How much longer a step takes; where the intervals overlap, that there is no difference to be told."""
    sentences = []
    for first, second in paired(cases):
        mine, theirs = first["step_time_s"], second["step_time_s"]
        where = f"{recipe_name(first['recipe'])}, {size(first)}"
        if first["scaling"] != "base":
            where += f", {first['scaling']}"
        if _overlap(mine, theirs):
            sentences.append(
                f"{where}: {first['strategy']} and {second['strategy']} take as long; intervals overlap."
            )
            continue
        slow, fast = (second, first) if theirs["value"] > mine["value"] else (first, second)
        ratio = slow["step_time_s"]["value"] / fast["step_time_s"]["value"]
        sentences.append(
            f"{where}: a step of {slow['strategy']} takes {ratio:.2f} times as long as one of {fast['strategy']}."
        )
    return sentences


def _overlap(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    if mine["low"] is None or theirs["low"] is None:
        return False
    return mine["low"] <= theirs["high"] and theirs["low"] <= mine["high"]


def _row(case: Case, runs: Sequence[Details]) -> dict[str, str]:
    first_s, steady = middle(runs, "first_step_s"), case["step_time_s"]
    compiling = ""
    if first_s is not None and first_s > steady["value"]:
        compiling = f" (+{plain(first_s - steady['value'], 's')})"
    energy = case["energy_per_sample_j"]
    scaling = "" if case["scaling"] == "base" else f" ({case['scaling']})"
    return dict(
        zip(
            COLUMNS,
            (
                recipe_name(case["recipe"]),
                case["strategy"],
                f"{size(case)}{scaling}, batch {case['global_batch']}",
                milliseconds(steady),
                percent(case["efficiency"]) if case["scaling"] != "base" else "base",
                mebibytes(middle(runs, "peak_memory_bytes")),
                plain(first_s, "s") + compiling,
                plain(middle(runs, "until_first_step_s"), "s"),
                plain(middle(runs, "wall_s"), "s"),
                plain(energy["value"], "J") if energy else UNKNOWN,
            ),
            strict=True,
        )
    )
