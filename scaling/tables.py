"""The tables of a report: every case, every run that does not count and why, the fitted laws; and report.csv."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling.wording import (
    STRATEGIES,
    UNKNOWN,
    listed,
    mebibytes,
    milliseconds,
    number,
    percent,
    plain,
    plural,
    recipe_name,
)

Analysis = Mapping[str, Any]
Rows = list[dict[str, str]]
Usage = Mapping[str, Mapping[str, Any]]
"""For each case's name: counters of COUNTED, None where unknown."""
COUNTED = (
    "peak_memory_bytes", "gpu_memory_bytes", "gpu_busy_percent", "tensor_active_percent", "host_cpu_percent",
    "throttled_s",
)  # fmt: skip
CASE_COLUMNS = (
    "recipe", "scaling", "strategy", "workers", "nodes", "global batch", "runs", "efficiency", "speed-up", "step",
    "samples/s", "tokens/s", "MFU", "J a sample", "memory",
)  # fmt: skip
USAGE_COLUMNS = (
    "recipe", "scaling", "strategy", "workers", "GPU busy", "tensor cores active", "GPU memory", "throttled",
    "energy a sample", "host CPU",
)  # fmt: skip
FIGURES = (
    "step_time_s",
    "samples_per_s",
    "tokens_per_s",
    "speed_up",
    "efficiency",
    "mfu",
    "energy_per_sample_j",
)


def case_rows(analysis: Analysis, usage: Usage) -> Rows:
    """A row each case, whatever became of it."""
    return [
        dict(zip(CASE_COLUMNS, _case_cells(case, usage[case["name"]]), strict=True))
        for case in in_order(analysis["cases"])
    ]


def in_order(cases: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A study shuffles its runs; a reader looks for them by name: bases first, then weak, then strong."""
    return sorted(
        cases,
        key=lambda case: (
            case["recipe"],
            ("base", "weak", "strong").index(case["scaling"]),
            STRATEGIES.index(case["strategy"]),
            case["workers"],
            case["nodes"],
        ),
    )


def _case_cells(case: Mapping[str, Any], counters: Mapping[str, Any]) -> Sequence[str]:
    used = sum(run["step_time_s"] is not None for run in case["runs"])
    return (
        recipe_name(case["recipe"]),
        case["scaling"],
        case["strategy"],
        str(case["workers"]),
        str(case["nodes"]),
        UNKNOWN if case["global_batch"] is None else str(case["global_batch"]),
        f"{used} of {len(case['runs'])}",
        _efficiency(case),
        "1 (base)" if case["scaling"] == "base" else number(case["speed_up"]),
        milliseconds(case["step_time_s"]),
        number(case["samples_per_s"]),
        number(case["tokens_per_s"]),
        percent(case["mfu"]),
        number(case["energy_per_sample_j"]),
        mebibytes(counters["peak_memory_bytes"]),
    )


def _efficiency(case: Mapping[str, Any]) -> str:
    if case["scaling"] == "base":
        return "base"
    return percent(case["efficiency"]) if case["efficiency"] else f"{UNKNOWN}: {case['reason']}"


def usage_rows(analysis: Analysis, usage: Usage) -> Rows:
    """A row a case of which anything is known; empty where nothing is of any."""
    rows = []
    for case in in_order(analysis["cases"]):
        found = usage[case["name"]]
        if all(found[name] is None for name in COUNTED if name != "peak_memory_bytes") and (
            case["energy_per_sample_j"] is None
        ):
            continue
        cells = (
            recipe_name(case["recipe"]),
            case["scaling"],
            case["strategy"],
            str(case["workers"]),
            plain(found["gpu_busy_percent"], "%"),
            plain(found["tensor_active_percent"], "%"),
            mebibytes(found["gpu_memory_bytes"]),
            plain(found["throttled_s"], "s"),
            number(case["energy_per_sample_j"], unit="J"),
            plain(found["host_cpu_percent"], "%"),
        )
        rows.append(dict(zip(USAGE_COLUMNS, cells, strict=True)))
    return rows


def left_out_rows(analysis: Analysis) -> Rows:
    """Every run that no figure rests on."""
    kinds = (("failed", "failed_runs"), ("not steady", "not_steady_runs"), ("never started", "planned_runs"))
    rows = [
        {"run": run["id"], "state": state, "reason": run["reason"] or "no reason given"}
        for state, key in kinds
        for run in analysis[key]
    ]
    reason = "more workers than cores: its time is told, but it has no speed-up"
    return rows + [
        {"run": run, "state": "oversubscribed", "reason": reason} for run in analysis["oversubscribed_runs"]
    ]


def left_out_words(analysis: Analysis) -> str:
    """`2 runs failed, 1 run was not steady`, or that none was left out."""
    counts = {
        "failed": len(analysis["failed_runs"]),
        "not steady": len(analysis["not_steady_runs"]),
        "never started": len(analysis["planned_runs"]),
        "oversubscribed": len(analysis["oversubscribed_runs"]),
    }
    told = [f"{plural(count, 'run')} {state}" for state, count in counts.items() if count]
    return listed(told) if told else "no run failed or was left out"


LAW_WORDS = {
    "amdahl": "Amdahl",
    "gustafson": "Gustafson",
    "usl": "universal scalability law",
    "parallel_fraction": "parallel fraction",
    "serial_fraction": "serial fraction",
    "contention": "contention",
    "coherency": "coherency",
}


def fit_rows(fits: Iterable[Mapping[str, Any]]) -> Rows:
    """A row a law and strategy: its parameters with intervals and how far it misses, or why it is undetermined."""
    rows = []
    for fit in fits:
        if fit["parameters"]:
            told = "; ".join(
                f"{LAW_WORDS[name]} {percent(found, 2)}" for name, found in fit["parameters"].items()
            )
        else:
            told = fit["reason"]
        miss = UNKNOWN if fit["residual"] is None else f"{fit['residual'] * 100:.2f} %"
        rows.append(
            {
                "strategy": fit["strategy"],
                "law": LAW_WORDS[fit["law"]],
                "parameters": told,
                "residual": miss,
            }
        )
    return rows


def undetermined(fits: Sequence[Mapping[str, Any]]) -> str | None:
    """Why nothing could be fitted; None where something could."""
    if any(fit["parameters"] for fit in fits):
        return None
    told = {
        f"{LAW_WORDS[fit['law']]}: {str(fit['reason']).removeprefix('undetermined: ')}": None for fit in fits
    }
    return "; ".join(told) or None


def pruned(rows: Rows) -> tuple[Rows, str]:
    """Without the columns that are unknown, or one node, in every row; and sentences that name them."""
    empty = [name for name in rows[0] if all(row[name] == UNKNOWN for row in rows)] if rows else []
    one_node = bool(rows) and all(row.get("nodes") == "1" for row in rows)
    left_out = [*empty, *(["nodes"] if one_node else [])]
    kept = [{name: text for name, text in row.items() if name not in left_out} for row in rows]
    told = [f"Unknown (n/a) in every row: {listed(empty)}."] if empty else []
    return kept, " ".join([*told, *(["All on one node."] if one_node else [])])


def write_csv(analysis: Analysis, usage: Usage, path: Path) -> None:
    """A row a case, numbers as they are, empty where unknown. Units are in the names; parts of 1, not percent."""
    heads = ["recipe", "scaling", "strategy", "workers", "nodes", "global_batch", "oversubscribed"]
    ends = ("", "_low", "_high")
    parts = ("data", "compute", "stragglers", "exchange", "rest")
    columns = [
        *heads,
        "runs_planned",
        "runs_used",
        *(name + end for name in FIGURES for end in ends),
        *(f"part_{name}_s" for name in parts),
        *COUNTED,
        "reason",
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for case in in_order(analysis["cases"]):
            row: dict[str, Any] = {name: case[name] for name in heads}
            row["runs_planned"] = len(case["runs"])
            row["runs_used"] = sum(run["step_time_s"] is not None for run in case["runs"])
            for name in FIGURES:
                if case[name]:
                    row |= {name + end: case[name][end.lstrip("_") or "value"] for end in ends}
            found = (case["decomposition"] or {}).get("parts") or {}
            row |= {f"part_{name}_s": part["seconds"]["value"] for name, part in found.items() if part}
            counted = {name: usage[case["name"]][name] for name in COUNTED}
            row |= {
                name: round(value) if value is not None and name.endswith("_bytes") else value
                for name, value in counted.items()
            }
            writer.writerow(row | {"reason": case["reason"]})
