"""A run directory in which files were changed."""

import json
import shutil
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from recipes.recipe import load_recipe
from tests.faults.fuzzing import (
    JSON_TEXT,
    NODES,
    VALUES,
    as_json,
    damaged,
    put,
    replace,
)
from tests.telemetry import telemetry_rows

TINY = ("model.depth=10", "model.width=1", "model.image_size=8", "data.source=synthetic")
RECIPE = load_recipe("digits-resnet18", TINY)
STEPS = range(2, 18, 2)


def timing(step: int) -> dict[str, Any]:
    clock = {"t_monotonic_s": 1000.0 + step, "t_unix_s": 1.8e9 + step, "host": "node1", "boot_id": "0a1b2c3d"}
    return {"step": step, "steps": 2, "step_time_s": 0.5, "data_time_s": 0.1, "replaced_samples": 0, **clock}


def metrics(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 2.0 / step, "grad_norm": 1.0, "samples": 96 * step, "tokens": 5 * step}


ROWS: dict[str, list[dict[str, Any]]] = {
    "metrics.jsonl": [metrics(step) for step in STEPS],
    "timing-0.jsonl": [timing(step) for step in STEPS],
    "timing-1.jsonl": [timing(step) for step in STEPS],
    "telemetry-node1.jsonl": telemetry_rows.run(1, 20),
}
TABLES: dict[str, dict[str, Any]] = {
    "run.json": {
        **{"format": 1, "recipe_id": RECIPE.recipe_id, "recipe": RECIPE.as_dict(), "strategy": "torch-ddp"},
        **{"workers": 2, "accumulation": 1, "exchange": True, "micro_batches": 2},
        "segments": [
            {"first_step": 0, "workers": 2, "device_uuids": ["GPU-0"], "settings": {"device": "cuda"}}
        ],
    },
    "status.json": {"state": "completed", "step": 16, "reason": None},
    "summary.json": {"energy_per_sample_j": 1.0},
}
LOGS = [name for name in ROWS if not name.startswith("telemetry")]
NAMES = [*ROWS, *TABLES]


def written(content: dict[str, Any] | list[dict[str, Any]]) -> bytes:
    rows = content if isinstance(content, list) else [content]
    return "".join(as_json(row) + "\n" for row in rows).encode()


def keys_of(table: dict[str, Any]) -> list[tuple[str, ...]]:
    """Of all values in nested tables."""
    return [
        path
        for key, value in table.items()
        for path in [
            (key,),
            *((key, *inner) for inner in (keys_of(value) if isinstance(value, dict) else [])),
        ]
    ]


@st.composite
def changes(draw: st.DrawFn, names: list[str]) -> tuple[str, bytes | str]:
    """A file of a run directory, and what becomes of it: bytes, or one of NODES."""
    name = draw(st.sampled_from(names))
    content: Any = json.loads(as_json(ROWS.get(name) or TABLES[name]))
    kind = draw(st.sampled_from(["values", "values", "rows", "bytes", "json", "node"]))
    if kind == "node":
        return name, draw(st.sampled_from(NODES))
    if kind == "bytes":
        return name, draw(
            damaged(written(content), st.binary(max_size=6) | st.sampled_from([b"\n", b"\0" * 40]))
        )
    if kind == "json":
        return name, draw(JSON_TEXT).encode("utf8", "replace") + draw(st.sampled_from([b"", b"\n"]))
    if kind == "rows" and isinstance(content, list):
        return name, written(
            draw(st.permutations(content * draw(st.integers(1, 2))))[: draw(st.integers(0, 20))]
        )
    for _ in range(draw(st.integers(1, 4))):
        table = draw(st.sampled_from(content)) if isinstance(content, list) else content
        keys = draw(st.sampled_from([*keys_of(table), ("further",)]))
        put(table, list(keys), draw(VALUES | st.just(...)))
    return name, written(content)


def make_run(folder: Path, *changed: tuple[str, bytes | str]) -> Path:
    """A run directory with these changes, in place of the one before."""
    run_dir = folder / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir()
    for name, content in [*ROWS.items(), *TABLES.items()]:
        (run_dir / name).write_bytes(written(content))
    for name, content in changed:
        if isinstance(content, str):
            replace(run_dir / name, content)
        else:
            replace(run_dir / name, "missing")
            (run_dir / name).write_bytes(content)
    return run_dir
