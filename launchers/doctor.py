"""What this machine or allocation can run, and how to mend the rest.

    python -m launchers.doctor [--quick] [--json]

Looks at the interpreter, the frameworks, Horovod, MPI, Slurm, GPUs, names, ports and file systems, and all-reduces
between two ranks over each runtime that is here; inside a Slurm job at its nodes too. What a strategy needs decides
whether it can run.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from distributed.devices import visible_gpus
from launchers import allocation, checks
from launchers.checks import Check
from launchers.environment import python_of
from launchers.prefixes import launch_prefix
from training.options import parse
from training.problems import EXIT_DONE, EXIT_FAILED
from training.process import guarded

PROGRAM = "python -m launchers.doctor"
MARKS = {
    "ok": "[green]ok[/]",
    "note": "[yellow]note[/]",
    "missing": "[yellow]missing[/]",
    "broken": "[red]BROKEN[/]",
}
NEEDS = {
    "torch-single": ("torch",),
    "torch-ddp": ("torch", "all-reduce of torch"),
    "torch-horovod": ("torch", "Horovod for torch", "all-reduce of Horovod for torch"),
    "tf-single": ("tensorflow",),
    "tf-mirrored": ("tensorflow", "all-reduce of tensorflow"),
    "tf-horovod": ("tensorflow", "Horovod for tensorflow", "all-reduce of Horovod for tensorflow"),
}
"""What must be ok for a strategy to run: checks by name, of several that begin alike any one."""


@dataclass
class DoctorOptions:
    """Say what this machine can run, and how to mend what it cannot."""

    quick: bool = False
    """Leave out the all-reduces, which take half a minute."""
    json: bool = False
    """Print everything as JSON."""


def main() -> int:
    """Look, print, and return 1 if something is broken; what is merely not installed is no failure."""
    options = parse(DoctorOptions, PROGRAM)
    found = look(options.quick, announce=not options.json)
    runs = {strategy: can_run(strategy, found, options.quick) for strategy in NEEDS}
    if options.json:
        print(json.dumps({"checks": [asdict(check) for check in found], "strategies": runs}, indent=1))
    else:
        print_strategies(runs, options.quick)
    return EXIT_FAILED if any(check.state == "broken" for check in found) else EXIT_DONE


def look(quick: bool, *, announce: bool) -> list[Check]:
    """All checks, each shown as soon as it is made."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    found: list[Check] = []

    def add(check: Check) -> None:
        found.append(check)
        if announce:
            console.print(f"{MARKS[check.state]:18} {check.name}: ", end="")
            console.print(check.found, markup=False, soft_wrap=True)
            if check.mend:
                console.print(f"         {check.mend}", style="dim", markup=False, soft_wrap=True)

    add(checks.python())
    for name in ("torch", "tensorflow"):
        add(checks.framework(name))
    for name in ("torch", "tensorflow"):
        add(checks.horovod(name))
    for check in (
        checks.mpi,
        checks.slurm,
        checks.devices,
        checks.host_name,
        checks.port,
        checks.shared_memory,
    ):
        add(check())
    add(checks.file_system(Path.cwd()))
    if allocation.num_nodes():
        add(allocation.nodes(Path.cwd()))
    present = {check.name for check in found if check.state == "ok"}
    for name, command in {} if quick else probes(present):
        add(checks.all_reduce(name, command))
    return found


def probes(present: set[str]) -> list[tuple[str, list[str]]]:
    """Name and command of each all-reduce that what is `present` makes possible."""
    wanted = []
    if "torch" in present:
        backends = ["gloo"] + (["nccl"] if visible_gpus() > 1 else [])
        wanted += [(f"all-reduce of torch over {b}", _command("torchrun", "torch", b)) for b in backends]
        if (count := allocation.num_nodes()) > 1:
            command = allocation.on_each_node("distributed.allreduce_torch", backends[-1])
            wanted.append((f"all-reduce of torch over {count} nodes", command))
    if "tensorflow" in present:
        wanted.append(
            ("all-reduce of tensorflow", [sys.executable, "-m", "distributed.allreduce_tf", "mirrored"])
        )
    for framework, module in (("torch", "torch"), ("tensorflow", "tf")):
        if f"Horovod for {framework}" in present:
            launchers = [*(["mpirun"] if "MPI" in present else []), "horovodrun"]
            names = [
                (launcher, f"all-reduce of Horovod for {framework} by {launcher}") for launcher in launchers
            ]
            wanted += [(name, _command(launcher, module, "horovod")) for launcher, name in names]
    return wanted


def _command(launcher: str, module: str, runtime: str) -> list[str]:
    strategy = f"{module}-horovod"
    start = launch_prefix(launcher, 2, strategy, python_of(strategy))
    return [*start, "-m", f"distributed.allreduce_{module}", runtime]


def can_run(strategy: str, found: list[Check], quick: bool) -> bool:
    """Whether all that a strategy needs is ok; with `quick` the all-reduces are taken on trust."""
    good = [check.name for check in found if check.state == "ok"]
    needs = [need for need in NEEDS[strategy] if not (quick and need.startswith("all-reduce"))]
    return all(any(name == need or name.startswith(f"{need} ") for name in good) for need in needs)


def print_strategies(runs: dict[str, bool], quick: bool) -> None:
    """The verdict, in one or two lines."""
    able = [strategy for strategy, can in runs.items() if can]
    unable = [strategy for strategy, can in runs.items() if not can]
    trust = " (all-reduces were not tried)" if quick else ""
    print(f"can run here{trust}: {', '.join(able) or 'nothing'}")
    if unable:
        print(f"cannot run here: {', '.join(unable)}")


if __name__ == "__main__":
    raise SystemExit(guarded(main))
