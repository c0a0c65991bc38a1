"""What srun leaves in the environment of each task it starts, in Slurm's own shorthand."""

import re
from collections.abc import Iterator, Mapping

from training.problems import UsageError

FIRST_SPECIAL_STEP = 0xFFFF_FFF0
"""Slurm's numbers for what is no step of srun: the batch script, an interactive shell, a prolog (slurm.h)."""
FIRST_PORT, LAST_PORT = 20000, 32000
"""Below Linux's ephemeral range, where a port can be taken by any outgoing connection."""
PORTS_A_STEP = 32
"""How far apart two steps begin to count."""


def in_step(environment: Mapping[str, str]) -> bool:
    """Whether srun started this process. In a batch script SLURM_PROCID is 0 as well, of as many as the job has."""
    step = environment.get("SLURM_STEP_ID", "")
    return step.isdecimal() and int(step) < FIRST_SPECIAL_STEP


def expand_hosts(nodelist: str) -> list[str]:
    """["a1", "a2", "b"] for "a[1-2],b", as scontrol show hostnames has it. Raises UsageError."""
    hosts: list[str] = []
    for entry in _split(nodelist):
        for host in _expand(entry, nodelist):
            hosts.append(host)
            if len(hosts) > 1_000_000:
                raise UsageError(f"SLURM_STEP_NODELIST: found {nodelist[:80]!r}…, more than a million hosts")
    return hosts


def expand_counts(counts: str) -> list[int]:
    """[2, 2, 1] for "2(x2),1", the tasks on each node. Raises UsageError."""
    numbers: list[int] = []
    for item in counts.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:\(x(\d{1,6})\))?", item, re.ASCII)
        if match is None:
            raise UsageError(f"SLURM_STEP_TASKS_PER_NODE: found {counts!r}, expected a list such as 4(x2),3")
        numbers += [int(match[1])] * int(match[2] or 1)
    return numbers


def first_port(environment: Mapping[str, str]) -> int:
    """A port that all tasks of a step know without asking: from the job's number and the step's."""
    job, step = (_number(environment.get(name, "")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    slots = (LAST_PORT - FIRST_PORT) // PORTS_A_STEP
    return FIRST_PORT + PORTS_A_STEP * ((job * 31 + step) % slots)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _split(nodelist: str) -> list[str]:
    """The entries of a list: at the commas outside brackets."""
    return [entry for entry in re.split(r",(?![^\[]*\])", nodelist) if entry]


def _expand(entry: str, nodelist: str) -> Iterator[str]:
    """The hosts of one entry; a name may have several brackets."""
    head, opened, rest = entry.partition("[")
    if not opened:
        yield entry
        return
    inside, closed, tail = rest.partition("]")
    for item in inside.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", item, re.ASCII)
        if not closed or match is None:
            raise UsageError(f"SLURM_STEP_NODELIST: found {nodelist!r}, expected a list such as node[1-4,7]")
        first, last = match[1], match[2] or match[1]
        for number in range(int(first), int(last) + 1):
            for end in _expand(tail, nodelist) if tail else [""]:
                yield f"{head}{number:0{len(first)}d}{end}"
