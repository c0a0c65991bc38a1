"""Submit one recipe under one strategy to Slurm: checks everything that can be checked here, then calls sbatch.

python -m launchers.submit torch-ddp --recipe resnet50-imagenet --nodes 4 --workers-per-node 8 --time 4:00:00
"""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from distributed import horovod_setup
from launchers import batch, commands
from launchers.environment import CHECKOUT, PYTHONS, python_of
from training.options import HorovodOptions, parse, warn
from training.problems import EXIT_DONE, EXIT_FAILED, UsageError
from training.process import guarded
from training.run import open_run
from training.world import World

PROGRAM = "python -m launchers.submit"
STUDY = "scaling-study"
Job = Literal["torch-ddp", "torch-horovod", "tf-mirrored", "tf-horovod", "scaling-study"]


@dataclass
class SubmitOptions(HorovodOptions):
    """Submit one recipe under one strategy to Slurm, on any number of nodes."""

    strategy: Annotated[Job, tyro.conf.Positional] = tyro.MISSING
    """How gradients are combined, or scaling-study: all of --strategies on 1, 2, 4 … nodes."""
    nodes: int = 1
    """Nodes of the job."""
    workers_per_node: int = 1
    """Workers on each of them: its GPUs or, on nodes without any, some of its cores."""
    strategies: str | None = None
    """Of a scaling-study: names separated by commas (default: all that can start there)."""
    site: Path | None = None
    """What the cluster wants (default: slurm/site.toml, if there is one; slurm/site.example.toml explains it)."""
    job_name: str | None = None
    """Name of the job, of its log and of its run directory (default: the strategy's)."""
    partition: str | None = None
    """Where to queue."""
    account: str | None = None
    """Who pays."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that the nodes must have."""
    time: str | None = None
    """Longest duration, as sbatch has it: 90 (minutes), 4:00:00, 1-12."""
    gpus_per_node: str | None = None
    """GPUs to ask for on each node: 8, or a100:8."""
    cpus_per_task: str | None = None
    """CPUs for each task, its loader processes included."""
    mem: str | None = None
    """Memory on each node."""
    exclusive: bool = False
    """Share the nodes with no other job."""
    dry_run: bool = False
    """Print the script that sbatch would be given, and submit nothing."""


GIVEN = (
    "job_name",
    "partition",
    "account",
    "qos",
    "constraint",
    "time",
    "gpus_per_node",
    "cpus_per_task",
    "mem",
)
"""The options that go to sbatch by their own names."""


def main() -> int:
    """Check, render, submit. Returns 0, 1 where sbatch refuses, or 2."""
    options = parse(SubmitOptions, PROGRAM)
    site = batch.read_site(options.site)
    fields = {
        **site.sbatch,
        **{
            key: batch.checked_field(f"--{key.replace('_', '-')}", key, value)
            for key in GIVEN
            if (value := getattr(options, key)) is not None
        },
        **({"exclusive": ""} if options.exclusive else {}),
    }
    gpus = int(fields.get("gpus_per_node", "0").rpartition(":")[2])
    if not gpus:
        fields.pop("gpus_per_node", None)
    check(options, gpus)
    fields["nodes"] = str(options.nodes)
    # TensorFlow drives all the GPUs of a node from one process, but only one CPU.
    one_task = options.strategy == "tf-mirrored" and gpus > 0
    fields["ntasks_per_node"] = "1" if one_task else str(options.workers_per_node)
    arguments = arguments_of(options)
    text = (batch.SCRIPTS / f"{options.strategy.replace('-', '_')}.sbatch").read_text()
    script = batch.render(text, fields, batch.environment_lines(*environment(options, site)), arguments)
    if options.dry_run:
        sys.stdout.buffer.write(script.encode())
        sys.stdout.flush()
        return EXIT_DONE
    return submit(script)


def arguments_of(options: SubmitOptions) -> list[str]:
    """What the batch file passes on to the training script, or to scaling.study."""
    if options.strategy != STUDY:
        return commands.option_arguments(replace(options, workers=None))
    overrides = ["--set", *options.overrides] if options.overrides else []
    return ["--recipes", options.recipe or "", *overrides]


def check(options: SubmitOptions, gpus: int) -> None:
    """What every worker would find wrong when the job has waited its turn. Raises UsageError and its kin."""
    is_study, is_horovod = options.strategy == STUDY, options.strategy.endswith("-horovod")
    for flag, number in (("--nodes", options.nodes), ("--workers-per-node", options.workers_per_node)):
        if number < 1:
            raise UsageError(f"{flag}: found {number}, expected an integer of 1 or more")
    if not is_horovod and (given := commands.horovod_arguments(options)):
        raise UsageError(f"{given[0]}: is Horovod's, but {options.strategy} does not use it; leave it out")
    if options.strategies is not None and not is_study:
        raise UsageError(f"--strategies: is for {STUDY}, found {options.strategy}; leave it out")
    for name in options.strategies.split(",") if options.strategies is not None else ():
        if name not in commands.LAUNCHERS:
            raise UsageError(
                f"--strategies: found {name!r}, expected some of: {','.join(commands.LAUNCHERS)}"
            )
    if is_study and (options.run_dir is not None or options.resume):
        raise UsageError(
            "--run-dir: a study's runs lie in studies/JOB_NAME-JOB_ID; leave it and --resume out"
        )
    if is_study and options.recipe is None:
        raise UsageError("--recipe: missing; expected a name in recipes/ or the path of a .toml file")
    workers = options.nodes * options.workers_per_node
    if options.workers not in (None, workers):
        raise UsageError(
            f"--workers: found {options.workers}, but {options.nodes} nodes of {options.workers_per_node} are "
            f"{workers}; leave --workers out"
        )
    needs_all = options.strategy == "tf-mirrored" and 0 < gpus != options.workers_per_node
    if 0 < gpus < options.workers_per_node or needs_all:
        raise UsageError(
            f"--workers-per-node: found {options.workers_per_node}, but --gpus-per-node (or the site file) asks for "
            f"{gpus}; {'make the two agree' if needs_all else f'use at most {gpus}'}"
        )
    if is_study:
        workers = options.workers_per_node * 2 ** (options.nodes.bit_length() - 1)
    if is_horovod:
        horovod_setup.check_options(options, workers)
    # Where it goes if nobody says: named by the job's number, so it cannot exist yet.
    run_dir = options.run_dir or (None if options.resume else Path("runs") / f"{options.strategy}-JOB_ID")
    world = World(0, 0, workers, workers, (0,), "srun", on_one_node=options.nodes == 1)
    run = open_run(replace(options, run_dir=run_dir, workers=None), options.strategy, world, with_state=False)
    if is_horovod:
        horovod_setup.check_compression(options, run.recipe.performance)


def environment(options: SubmitOptions, site: batch.Site) -> tuple[dict, dict[str, str]]:
    """The site's environment for this job, and the variables that slurm/*.sbatch read, the caller's own first."""
    prefix = options.strategy.partition("-")[0]
    wanted = site.environment({"torch": "torch", "tf": "tensorflow"}.get(prefix, ""))
    variables = {"TRIMARAN_HOME": str(CHECKOUT)}
    for key, name in batch.VARIABLES.items():
        if text := os.environ.get(name) or wanted.get(key):
            variables[name] = batch.checked_text(name, text)
    container = variables.setdefault("CONTAINER", "none")
    if container not in batch.CONTAINERS:
        raise UsageError(f"CONTAINER: found {container!r}, expected one of {', '.join(batch.CONTAINERS)}")
    if container != "none" and "IMAGE" not in variables:
        raise UsageError(
            f"IMAGE: not set, but CONTAINER={container} needs one; set it, or image in the site file"
        )
    if options.strategy == STUDY:
        if container != "none":
            raise UsageError(f"CONTAINER: found {container!r}, but a study runs in none; set CONTAINER=none")
        for prefix, framework in (("torch", "torch"), ("tf", "tensorflow")):
            own = site.environments.get(framework, {}).get("python")
            if python := os.environ.get(PYTHONS[prefix]) or own:
                variables[PYTHONS[prefix]] = batch.checked_text(PYTHONS[prefix], python)
        if names := options.strategies or os.environ.get("STRATEGIES"):
            variables["STRATEGIES"] = batch.checked_text("STRATEGIES", names)
    elif container == "none" and "PYTHON" not in os.environ and PYTHONS[prefix] in os.environ:
        words = python_of(options.strategy)
        if len(words) > 1:
            raise UsageError(
                f"{PYTHONS[prefix]}: found {' '.join(words)!r}, expected one word; set CONTAINER, IMAGE and PYTHON"
            )
        variables["PYTHON"] = batch.checked_text(PYTHONS[prefix], words[0])
    variables.setdefault("PYTHON", sys.executable if container == "none" else "python")
    return wanted, variables


def submit(script: str) -> int:
    """Give the script to sbatch as it is; prints the job's number. Raises UsageError where there is no sbatch."""
    try:
        ended = subprocess.run(["sbatch", "--parsable"], input=script.encode(), capture_output=True)
    except FileNotFoundError:
        raise UsageError(
            "sbatch: not found on PATH; submit from a node of the cluster that has Slurm, or see the script "
            "with --dry-run"
        ) from None
    said = "; ".join(filter(None, map(str.strip, ended.stderr.decode(errors="replace").splitlines())))
    if ended.returncode:
        warn(f"sbatch refused the job: {said or f'exit code {ended.returncode}'}")
        return EXIT_FAILED
    if said:
        warn(said)
    print(ended.stdout.decode().strip())
    return EXIT_DONE


if __name__ == "__main__":
    raise SystemExit(guarded(main))
