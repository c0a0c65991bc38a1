"""What the links inside a node do, measured by the all-reduce probes that launchers.doctor has as well."""

from pathlib import Path
from typing import Any

from distributed.devices import visible_gpus
from launchers import checks
from launchers.environment import python_of
from launchers.prefixes import launch_prefix
from telemetry.run_log import read_object, write_json

PROBED = 2
"""Ranks: one link. What more of them share is for the model to say."""


def probe_links(folder: Path, launchers: dict[str, str]) -> None:
    """Write FOLDER/links.json: each strategy's link on this node, null where its probe failed; what is there stays.

    launchers: of each strategy, what starts its workers.
    """
    path = folder / "links.json"
    known = read_links(folder)
    for strategy, launcher in launchers.items():
        if strategy not in known:
            known[strategy] = {"in_node": _probe(strategy, launcher), "between_nodes": None}
            write_json(path, known)


def read_links(folder: Path) -> dict[str, Any]:
    """links.json; empty where there is none."""
    return read_object(folder / "links.json")


def probe_command(strategy: str, launcher: str) -> list[str]:
    """Two ranks of the strategy's own runtime."""
    framework, _, how = strategy.partition("-")
    if how == "horovod":
        runtime = "horovod"
    else:
        runtime = "mirrored" if framework == "tf" else "nccl" if visible_gpus() >= PROBED else "gloo"
    # MirroredStrategy drives both devices from one process.
    start = launch_prefix(
        "direct" if runtime == "mirrored" else launcher, PROBED, strategy, python_of(strategy)
    )
    return [*start, "-m", f"distributed.allreduce_{framework}", runtime]


def _probe(strategy: str, launcher: str) -> dict[str, float] | None:
    found = checks.all_reduce(strategy, probe_command(strategy, launcher)).figures
    if not found:
        return None
    ring_s = found["median_s"] - 2 * (found["ranks"] - 1) * found["latency_s"]
    if ring_s <= 0:
        return None
    moved = 2 * (found["ranks"] - 1) / found["ranks"] * found["bytes"]
    return {"latency_s": found["latency_s"], "bytes_per_s": moved / ring_s}
