"""Which runs verify needs: the reference, its perturbed controls, and each strategy with each number of workers."""

from dataclasses import dataclass, field
from math import lcm
from pathlib import Path
from typing import Any

from launchers.commands import choose_launcher, startable, training_command
from launchers.comparison import Bounds, Comparison, bounds_for, widened, with_compression
from launchers.environment import training_environment
from launchers.nodes import ONE_NODE, Nodes
from launchers.prefixes import free_port
from models.specs import buffer_table
from recipes.recipe import Recipe, load_recipe
from training.communication import wire_type
from training.options import Options
from training.problems import UsageError
from training.process import LAUNCHED_BY
from training.run import check_batch, open_recipe_source

CONTROL_SEEDS = (1, 2, 3)
REFERENCE = "torch-single"
LOOPBACK_NAMES = ("localhost", "127.0.0.1")
"""Two names of this machine that stand for two nodes."""


@dataclass
class Job:
    """One run: a strategy with `workers` workers that each sum `accumulation` micro-batches.

    nodes: over how many nodes, which are all this machine; each is started by a command of its own.
    plain: without the plan's switches, which the others have.
    """

    strategy: str
    workers: int
    accumulation: int
    perturb_seed: int | None = None
    exact: bool = False
    plain: bool = False
    launcher: str | None = None
    nodes: int = 1
    result: Comparison = field(default_factory=Comparison)
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Its folder in the plan's."""
        suffix = "-plain" if self.plain else ""
        if self.exact or self.perturb_seed is not None:
            suffix = "-float64" if self.exact else f"-control-{self.perturb_seed}"
        return f"{self.label.replace('/', '-')}-{self.workers}{suffix}"

    @property
    def label(self) -> str:
        """The strategy, the launcher where it is not the strategy's first, and the nodes where there are several."""
        several = None if self.nodes == 1 else f"{self.nodes}-nodes"
        return "/".join(filter(None, (self.strategy, self.launcher, several)))

    @property
    def places(self) -> list[Nodes]:
        """Which nodes its commands start, one each; TensorFlow has a process a worker there, and each counts as one."""
        if self.nodes == 1:
            return [ONE_NODE]
        if self.strategy.endswith("-horovod"):
            return [Nodes(self.nodes, LOOPBACK_NAMES[: self.nodes])]
        count = self.workers if self.strategy == "tf-mirrored" else self.nodes
        hosts, port = (LOOPBACK_NAMES[-1],) * count, free_port()
        return [Nodes(count, hosts, rank, port=port) for rank in range(count)]


@dataclass
class Plan:
    """All runs of one recipe.

    controls: in float64 the perturbed runs for trajectories, and `control` is what they differ by; in any other
    precision the reference's steps in float64, and `rounding` is how far it is from them.
    switches: overrides that all jobs have but the plain ones: the reference and its controls. `switched` has them.
    """

    name: str
    recipe_name: str
    recipe: Recipe
    overrides: tuple[str, ...]
    modes: tuple[str, ...]
    reference: Job
    jobs: list[Job]
    controls: list[Job]
    switches: tuple[str, ...] = ()
    switched: Recipe = field(kw_only=True)
    control: float | None = None
    rounding: dict[str, float] | None = None

    @property
    def bounds(self) -> Bounds:
        """What differences are held to."""
        bounds = bounds_for(self.recipe)
        return bounds if self.rounding is None else widened(bounds, self.rounding)

    def bounds_of(self, job: Job) -> Bounds:
        """What a job's differences are held to: wider where its gradients are rounded on their way."""
        performance = (self.recipe if job.plain else self.switched).performance
        return with_compression(self.bounds, wire_type(performance, job.workers), job.workers)

    @property
    def is_calm(self) -> bool:
        """Whether chaos alone stays small enough for trajectories to be compared."""
        bound = bounds_for(self.recipe).control
        return self.control is None or bound is None or self.control <= bound

    @property
    def passes(self) -> bool:
        """Whether all runs are the same training."""
        return self.is_calm and all(job.result.passes for job in self.jobs)

    def statistics_peer(self, job: Job) -> Job | None:
        """The run whose BatchNorm statistics must equal this one's: of equal workers and accumulation."""
        if not buffer_table(self.recipe.model) or "one-step" not in self.modes:
            return None
        alike = [j for j in self.jobs if (j.workers, j.accumulation) == (job.workers, job.accumulation)]
        return alike[0] if alike and alike[0] is not job else None

    def commands(self, job: Job, folder: Path) -> list[tuple[list[str], dict[str, str]]]:
        """The job's commands, one a node, each with its environment."""
        overrides = self.overrides
        if not job.plain:
            overrides += self.switches
        if job.exact:
            overrides += ("precision=float64",)
        if job is self.reference:
            overrides += ("run.checkpoint_every=1", "run.keep_checkpoints=1000000")
        follows = "one-step" in self.modes and job.perturb_seed is None
        options = Options(
            recipe=self.recipe_name,
            run_dir=folder / job.name,
            set=[overrides],
            accumulation=job.accumulation,
            replay_from=folder / self.reference.name if follows else None,
            # Without trajectories one free step is enough; the replay takes all of them.
            stop_after=1
            if self.modes == ("one-step",) and job is not self.reference and self.recipe.steps > 1
            else None,
            perturb_gradients=job.perturb_seed,
            telemetry_interval_s=0,
        )
        launcher = choose_launcher(job.strategy, job.launcher)
        return [
            (
                training_command(job.strategy, job.workers, options, launcher=launcher, nodes=nodes),
                {**training_environment(job.strategy), **nodes.environment(launcher), LAUNCHED_BY: launcher},
            )
            for nodes in job.places
        ]


def make_plan(
    recipe_name: str,
    recipe: Recipe,
    strategies: list[str],
    workers: list[int],
    overrides: tuple[str, ...],
    modes: tuple[str, ...],
    nodes: int = 1,
    switches: tuple[str, ...] = (),
) -> Plan:
    """Decide on worker counts and accumulation. Raises UsageError where the batch cannot be shared, DataError."""
    open_recipe_source(recipe, "train")
    counts = {name: [1] if name.endswith("-single") else workers for name in strategies}
    used = sorted({count for each in counts.values() for count in each} | {1})
    accumulation = accumulations(recipe, used)
    for count in used:
        check_batch(recipe, count, accumulation[count])
    switched = load_recipe(recipe_name, (*overrides, *switches)) if switches else recipe
    reference = Job(REFERENCE, 1, accumulation[1], plain=bool(switches))
    jobs = [
        reference
        if (name, count) == (REFERENCE, 1) and not switches
        else Job(name, count, accumulation[count], **spread(name, count, nodes))
        for name in strategies
        for count in counts[name]
    ]
    jobs += others(counts, accumulation, nodes)
    controls = []
    if recipe.precision != "float64":
        controls = [Job(REFERENCE, 1, accumulation[1], exact=True, plain=True)]
    elif "trajectory" in modes:
        controls = [Job(REFERENCE, 1, accumulation[1], seed, plain=True) for seed in CONTROL_SEEDS]
    name = Path(recipe_name).stem
    return Plan(
        name, recipe_name, recipe, overrides, modes, reference, jobs, controls, switches, switched=switched
    )


def spread(strategy: str, workers: int, nodes: int) -> dict[str, Any]:
    """How a job goes over several loopback nodes; one worker stays on one. Raises UsageError for uneven numbers."""
    if nodes == 1 or workers == 1:
        return {}
    if workers % nodes:
        raise UsageError(f"--workers: found {workers}, expected multiples of --nodes {nodes}, or 1")
    # horovodrun alone can be made to take two names of this machine for two hosts.
    return {"nodes": nodes, **({"launcher": "horovodrun"} if strategy.endswith("-horovod") else {})}


def others(counts: dict[str, list[int]], accumulation: dict[int, int], nodes: int) -> list[Job]:
    """The runs that show that the launcher makes no difference: each strategy's smallest of several workers.

    Once under each other launcher that starts it here, and tf-mirrored as MultiWorkerMirroredStrategy.
    """
    if nodes > 1:
        return []
    smallest = {
        name: min(several) for name, each in counts.items() if (several := [n for n in each if n > 1])
    }
    jobs = [
        Job(name, count, accumulation[count], launcher=launcher)
        for name, count in smallest.items()
        for launcher in startable(name)
        if launcher != choose_launcher(name, None)
    ]
    mirrored = smallest.get("tf-mirrored")
    if mirrored is not None:
        jobs.append(Job("tf-mirrored", mirrored, accumulation[mirrored], nodes=mirrored))
    return jobs


def accumulations(recipe: Recipe, workers: list[int]) -> dict[int, int]:
    """Micro-batches for each worker count.

    With BatchNorm the micro-batches must be the same ones for all, so workers x accumulation is one number, which
    gives the most workers more than one micro-batch where the batch allows it. Without it any number will do: odd
    counts take two and even counts one, so that both of a strategy's paths are compared.
    """
    if not buffer_table(recipe.model):
        return {count: 1 if count % 2 == 0 else 2 for count in workers}
    total = lcm(*workers)
    for factor in (1, 2):
        if factor * total > max(workers) and recipe.data.global_batch % (factor * total) == 0:
            return {count: factor * total // count for count in workers}
    if recipe.data.global_batch % total:
        raise UsageError(
            f"data.global_batch: found {recipe.data.global_batch}, expected a multiple of {total} to compare "
            f"{', '.join(map(str, workers))} workers; add --set data.global_batch=…"
        )
    return {count: total // count for count in workers}
