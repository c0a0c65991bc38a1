"""Predict how a measured study would scale: step time and efficiency on other numbers of workers.

    python -m scaling.predict STUDY_DIR --workers 8,64,512

Reads STUDY_DIR/measured.json (described in scaling/measured.py), prints a table a case, writes
STUDY_DIR/prediction.json. The model and what it leaves out: docs/prediction.md.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from scaling.links import TYPICAL_LATENCY_S, Link
from scaling.measured import Case, measured
from scaling.prediction import (
    GivenLinks,
    Model,
    Prediction,
    WhatIf,
    build_model,
    check_counts,
    predict,
    what_ifs,
)
from training.options import parse
from training.problems import EXIT_DONE, UsageError
from training.process import guarded

PROGRAM = "python -m scaling.predict"
FILE_NAME = "prediction.json"


@dataclass
class PredictOptions:
    """Predict step time and efficiency on other numbers of workers from a measured study."""

    study_dir: tyro.conf.Positional[Path]
    """Directory of the study; it holds measured.json."""
    workers: str = "8,64,512"
    """Total numbers of workers, separated by commas."""
    workers_per_node: int | None = None
    """Workers on each node (default: what was measured, else all of them on one node)."""
    in_node_gb_s: float | None = None
    """Bandwidth that a worker sees in its node, in 1e9 bytes a second (default: measured, else fitted)."""
    in_node_latency_us: float | None = None
    """Latency in the node, in microseconds (default with a given bandwidth: 20)."""
    between_nodes_gb_s: float | None = None
    """Bandwidth of a whole node, all its adapters together, in 1e9 bytes a second."""
    between_nodes_latency_us: float | None = None
    """Latency between nodes, in microseconds (default with a given bandwidth: 20)."""


def main() -> int:
    """Predict all cases, print and write them."""
    options = parse(PredictOptions, PROGRAM)
    counts = _counts(options.workers)
    if options.workers_per_node is not None and options.workers_per_node < 1:
        raise UsageError(f"--workers-per-node: found {options.workers_per_node}, expected at least 1")
    given = GivenLinks(
        _given_link("in-node", options.in_node_gb_s, options.in_node_latency_us),
        _given_link("between-nodes", options.between_nodes_gb_s, options.between_nodes_latency_us),
        options.workers_per_node,
    )
    report = [_predict_case(case, given, counts) for case in measured(options.study_dir).cases]
    path = options.study_dir / FILE_NAME
    try:
        path.write_text(json.dumps({"format": 1, "cases": report}, indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from None
    print(f"written: {path}")
    return EXIT_DONE


def _counts(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise UsageError(f"--workers: found {text!r}, expected numbers above 0 such as 8,64,512")
    return sorted({int(word) for word in words})


def _given_link(name: str, gb_s: float | None, latency_us: float | None) -> Link | None:
    if gb_s is None and latency_us is None:
        return None
    if gb_s is None or not gb_s > 0:
        raise UsageError(f"--{name}-gb-s: found {gb_s}, expected a number above 0")
    if latency_us is not None and not latency_us >= 0:
        raise UsageError(f"--{name}-latency-us: found {latency_us}, expected 0 or more")
    return Link(TYPICAL_LATENCY_S if latency_us is None else latency_us * 1e-6, gb_s * 1e9)


def _predict_case(case: Case, given: GivenLinks, counts: list[int]) -> dict[str, Any]:
    """Print one case and return what stands of it in prediction.json."""
    model = build_model(case, given)
    possible = check_counts(model, counts)
    predictions = predict(model, given, possible)
    changes = what_ifs(model, possible[-1]) if possible else []
    notes = _notes(model, [n for n in counts if n not in possible])
    _print(model, predictions, changes, notes)
    return {
        "recipe": case.recipe_name,
        "recipe_id": case.recipe.recipe_id,
        "strategy": case.strategy,
        "scaling": case.scaling,
        "links": {
            "in_node": asdict(model.topology.in_node),
            "between_nodes": model.topology.between_nodes and asdict(model.topology.between_nodes),
            "workers_per_node": model.topology.workers_per_node,
            "fitted": sorted(model.fitted),
        },
        "compute_s": model.work.compute_s,
        "jitter_s": model.work.jitter_s,
        "residual": model.residual,
        "predictions": [asdict(prediction) for prediction in predictions],
        "what_if": [asdict(change) for change in changes],
        "notes": notes,
    }


def _notes(model: Model, impossible: list[int]) -> list[str]:
    """What a reader must know of this case's prediction."""
    case, notes = model.case, []
    for level, fit in model.fitted.items():
        where = level.replace("_", " ")
        known = f"{fit.link.bytes_per_s / 1e9:.3g} GB/s, {fit.link.latency_s * 1e6:.3g} us"
        if fit.is_bound:
            notes.append(
                f"link {where}: the measured steps lost nothing that can be told from noise; taken as {known}, "
                "the slowest such link: efficiency may be higher"
            )
        else:
            notes.append(f"link {where}: fitted to the measured steps, {known}")
    if model.residual is None:
        notes.append(
            "no measured steps to compare with: the interval holds the spread of the repetitions only"
        )
    elif model.fitted and len([n for n in case.steps_s if n > 1]) <= 2 * len(model.fitted):
        notes.append("as many fitted numbers as measured counts: how far the model misses is unknown")
    if case.jitter_s is None:
        spread = "taken as that of the repetitions" if len(case.compute_s) > 1 else "unknown, taken as 0"
        notes.append(f"spread between workers: {spread}; waiting for the slowest may take longer")
    if model.topology.workers_per_node is None:
        notes.append("all workers as on one node; --workers-per-node says otherwise")
    if impossible:
        counts = ", ".join(map(str, impossible))
        notes.append(f"left out, fewer samples than workers in a batch of {case.global_batch}: {counts}")
    return notes


def _print(model: Model, predictions: list[Prediction], changes: list[WhatIf], notes: list[str]) -> None:
    """A table of the counts, a table of the changes, and the notes."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 144, highlight=False)
    table = Table(title=f"{model.case.label}: predicted", title_justify="left")
    headings = ("workers", "step ms", "95 %", "efficiency", "95 %", "samples/s", "exposed ms", "waiting ms")
    for heading in headings:
        table.add_column(heading, justify="right")
    table.add_column("bottleneck", no_wrap=True)
    for one in predictions:
        table.add_row(
            str(one.workers),
            f"{1e3 * one.step.step_s:.4g}",
            " to ".join(f"{1e3 * end:.4g}" for end in one.step_interval_s),
            f"{one.efficiency:.1%}",
            " to ".join(f"{end:.1%}" for end in one.efficiency_interval),
            f"{one.samples_per_s:,.0f}",
            f"{1e3 * one.step.exposed_s:.3g} of {1e3 * one.step.communication_s:.3g}",
            f"{1e3 * one.step.straggling_s:.3g}",
            one.bottleneck,
        )
    console.print(table)
    if changes:
        table = Table(title=f"what would change on {changes[0].workers} workers", title_justify="left")
        for heading in ("change", "step ms", "efficiency", "samples/s"):
            table.add_column(heading, justify="left" if heading == "change" else "right")
        for change in changes:
            table.add_row(
                change.change,
                f"{1e3 * change.step_s:.4g}",
                f"{change.efficiency:.1%}",
                f"{change.samples_per_s:,.0f}",
            )
        console.print(table)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)


if __name__ == "__main__":
    raise SystemExit(guarded(main))
