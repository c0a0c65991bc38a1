"""What launchers.doctor looks at inside a Slurm job: whether its nodes can train together."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

from launchers.checks import PROBE_TIME_LIMIT_S, Check
from launchers.environment import python_of, training_environment
from launchers.nodes import Nodes
from launchers.prefixes import launch_prefix


def num_nodes() -> int:
    """How many nodes the job has that this runs in; 0 outside of one."""
    text = os.environ.get("SLURM_JOB_NUM_NODES", "")
    return int(text) if text.isdecimal() and "SLURM_JOB_ID" in os.environ else 0


def on_each_node(module: str, *arguments: str) -> list[str]:
    """The command that runs a probe once on each node of the job."""
    count = num_nodes()
    prefix = launch_prefix("srun", count, "torch-ddp", python_of("torch-ddp"), Nodes(count))
    return [*prefix, "-m", module, *arguments]


def nodes(folder: Path) -> Check:
    """Whether srun starts a task on every node, and they see each other, this checkout and `folder`."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".trimaran-") as marker:
        command = on_each_node("distributed.presence", marker.name)
        environment = {**os.environ, **training_environment("torch-ddp")}
        try:
            ended = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=PROBE_TIME_LIMIT_S
            )
        except subprocess.TimeoutExpired:
            mend = "another step may hold the job's cores; look with squeue --steps"
            return Check("nodes", "broken", f"srun did not end within {PROBE_TIME_LIMIT_S} s", mend)
    seen = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith('{"host"')]
    if ended.returncode or len(seen) != num_nodes():
        said = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
        found = f"srun started {len(seen)} of {num_nodes()} tasks, exit code {ended.returncode}: {said}"
        return Check(
            "nodes", "broken", found, "this Python and checkout must be on a file system that all see"
        )
    return judge(seen, folder)


def judge(seen: list[dict], folder: Path) -> Check:
    """What the nodes' reports amount to."""
    hosts = ", ".join(sorted(one["host"] for one in seen))
    first = seen[0]
    unknown = sorted({name for one in seen for name in one["unknown_names"]})
    if unknown:
        return Check(
            "nodes", "broken", f"{', '.join(unknown)}: does not resolve everywhere", "mend DNS or /etc/hosts"
        )
    if blind := [one["host"] for one in seen if not one["sees_file"]]:
        found = f"{', '.join(blind)} cannot see {folder}"
        return Check("nodes", "broken", found, "work, and put run directories, on a shared file system")
    for key, what in (("code", "code"), ("python", "Python")):
        if odd := [one["host"] for one in seen if one[key] != first[key]]:
            found = f"{', '.join(odd)}: another {what} than {first['host']}"
            return Check(
                "nodes", "broken", found, "use one checkout and one environment, on a shared file system"
            )
    counts = sorted({one["gpus"] for one in seen})
    found = f"{len(seen)} ({hosts}), one code, {' or '.join(map(str, counts))} GPU(s) each"
    if len(counts) > 1:
        return Check("nodes", "note", found, "all nodes of a run need as many; choose them with --constraint")
    return Check("nodes", "ok", found)
