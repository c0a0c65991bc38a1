"""RUN_DIR/profile: each rank's figures, all of them in summary.json, and one screen of them in summary.txt.

    rank-<rank>.trace.json.gz   the trace, for https://ui.perfetto.dev or chrome://tracing
    rank-<rank>.json            what training.trace makes of it: a list of devices
    summary.json                all ranks' devices, and what the run was
    summary.txt                 the same for a person

docs/performance.md says what each figure means.
"""

import os
from typing import Any

from telemetry.run_log import read_object, write_json
from training.run import Run
from training.trace import COMMUNICATION, PARTS, Lane, summarise

FOLDER = "profile"
MOST_DEVICES, MOST_OPERATIONS, NAME_WIDTH = 8, 12, 62
TITLES = ("computing", "exposed comm", "input wait", "the rest")


def write_rank(run: Run, steps: range, lanes: list[Lane]) -> None:
    """This process's part. Raises ValueError where the trace lacks a step."""
    devices = [
        {"rank": run.world.rank, "host": os.uname().nodename, **summarise(lane, steps)} for lane in lanes
    ]
    name = f"rank-{run.world.rank}.json"
    write_json(run.run_dir / FOLDER / name, {"first_step": steps[0], "devices": devices})


def write_summary(run: Run, steps: range) -> list[str]:
    """Join what all ranks wrote; returns the lines of summary.txt."""
    folder = run.run_dir / FOLDER
    devices, missing = [], []
    for rank in range(run.world.num_processes):
        content = read_object(folder / f"rank-{rank}.json")
        if content.get("first_step") == steps[0]:  # of this start, not of one that was resumed
            devices += content["devices"]
        else:
            missing.append(rank)
    summary = {
        "format": 1,
        "strategy": run.strategy,
        "workers": run.workers,
        "exchange": run.exchanges,
        "first_step": steps[0],
        "last_step": steps[-1],
        "missing_ranks": missing,
        "devices": devices,
    }
    write_json(folder / "summary.json", summary)
    text = lines(summary, str(folder))
    (folder / "summary.txt").write_text("\n".join(text) + "\n")
    return text


def lines(summary: dict[str, Any], folder: str) -> list[str]:
    """One screen: at most 40 lines of 100 columns (the names of folders aside)."""
    devices = summary["devices"]
    exchange = "" if summary["exchange"] else ", without exchange"
    workers = "1 worker" if summary["workers"] == 1 else f"{summary['workers']} workers"
    text = [
        f"profile of steps {summary['first_step']} to {summary['last_step']}: {summary['strategy']}, "
        f"{workers}{exchange}; medians of a step"
    ]
    if summary["missing_ranks"]:
        ranks = ", ".join(map(str, summary["missing_ranks"][:8]))
        text.append(f"no figures of {len(summary['missing_ranks'])} ranks: {ranks}")
    if not devices:
        return text
    text += ["", _row("rank device", "step", *TITLES, "comm, all")]
    slowest = sorted(devices, key=lambda device: -device["step_time_s"])[:MOST_DEVICES]
    for device in sorted(slowest, key=lambda device: (device["rank"], device["device"])):
        parts = [_share(device[part], device["step_time_s"]) for part in PARTS]
        cells = (_time(device["step_time_s"]), *parts, _time(device["communication_s"]))
        text.append(_row(f"{device['rank']:>4} {device['device']}", *cells))
    if len(devices) > len(slowest):
        text.append(f"     the slowest {len(slowest)} of {len(devices)}; the others are in summary.json")
    if negotiation_s := max(device["negotiation_s"] or 0.0 for device in devices):
        text.append(
            f"     in all communication: {_time(negotiation_s)} of Horovod's negotiation (until all ranks are there)"
        )
    text += ["", *_operation_lines(max(devices, key=lambda device: device["step_time_s"]))]
    text += ["", f"traces: {folder}/rank-*.trace.json.gz, for https://ui.perfetto.dev (or chrome://tracing)"]
    if summary["strategy"].startswith("tf-"):
        text.append(f"        tensorboard --logdir {folder}, with tensorboard-plugin-profile installed")
    return text


def _operation_lines(device: dict[str, Any]) -> list[str]:
    """The operations of one device that took the most time."""
    shown = device["operations"][:MOST_OPERATIONS]
    head = f"operations of rank {device['rank']}, {device['device']}"
    text = [f"{head:<{NAME_WIDTH}} {'time':>10} {'share':>7} {'calls':>8}"]
    for operation in shown:
        name = _shortened(operation["name"])
        mark = "  comm" if operation["kind"] == COMMUNICATION else ""
        time, share = _time(operation["time_s"]), _percent(operation["share"])
        text.append(f"{name:<{NAME_WIDTH}} {time:>10} {share:>7} {operation['calls']:>8.1f}{mark}")
    return text


def _shortened(name: str) -> str:
    """Without its middle: a kernel's end often says more than its template's arguments."""
    half = NAME_WIDTH // 2
    return name if len(name) <= NAME_WIDTH else f"{name[:half]}…{name[1 - half :]}"


def _row(first: str, *cells: str) -> str:
    return f"{first:<16}" + "".join(f"{cell:>14}" for cell in cells)


def _share(seconds: float | None, of_s: float) -> str:
    return "n/a" if seconds is None or not of_s else _percent(seconds / of_s)


def _percent(share: float | None) -> str:
    return "n/a" if share is None else f"{share:.1%}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "n/a"
    return f"{seconds:.3f} s" if seconds >= 1 else f"{1e3 * seconds:.3f} ms"
