"""Which runs verify needs: the reference, its perturbed controls, and each strategy with each number of workers."""

from dataclasses import dataclass, field
from math import lcm
from pathlib import Path

from launchers.commands import choose_launcher, startable, training_command, training_environment
from launchers.comparison import Bounds, Comparison, bounds_for, widened
from models.specs import buffer_table
from recipes.recipe import Recipe
from training.options import Options
from training.problems import UsageError
from training.run import check_batch, open_recipe_source

CONTROL_SEEDS = (1, 2, 3)
REFERENCE = "torch-single"


@dataclass
class Job:
    """One run: a strategy with `workers` workers that each sum `accumulation` micro-batches."""

    strategy: str
    workers: int
    accumulation: int
    perturb_seed: int | None = None
    exact: bool = False
    launcher: str | None = None
    result: Comparison = field(default_factory=Comparison)
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Its folder in the plan's."""
        suffix = (
            "-float64" if self.exact else "" if self.perturb_seed is None else f"-control-{self.perturb_seed}"
        )
        return f"{self.label.replace('/', '-')}-{self.workers}{suffix}"

    @property
    def label(self) -> str:
        """The strategy, and the launcher where it is not the strategy's first."""
        return self.strategy if self.launcher is None else f"{self.strategy}/{self.launcher}"


@dataclass
class Plan:
    """All runs of one recipe.

    controls: in float64 the perturbed runs for trajectories, and `control` is what they differ by; in float32 the
    reference's steps in float64, and `rounding` is how far it is from them.
    """

    name: str
    recipe_name: str
    recipe: Recipe
    overrides: tuple[str, ...]
    modes: tuple[str, ...]
    reference: Job
    jobs: list[Job]
    controls: list[Job]
    control: float | None = None
    rounding: dict[str, float] | None = None

    @property
    def bounds(self) -> Bounds:
        """What differences are held to."""
        bounds = bounds_for(self.recipe)
        return bounds if self.rounding is None else widened(bounds, self.rounding)

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

    def command(self, job: Job, folder: Path) -> tuple[list[str], dict[str, str]]:
        """The job's command and environment."""
        overrides = self.overrides
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
        )
        return (
            training_command(job.strategy, job.workers, options, launcher=job.launcher),
            training_environment(job.strategy),
        )


def make_plan(
    recipe_name: str,
    recipe: Recipe,
    strategies: list[str],
    workers: list[int],
    overrides: tuple[str, ...],
    modes: tuple[str, ...],
) -> Plan:
    """Decide on worker counts and accumulation. Raises UsageError where the batch cannot be shared, DataError."""
    open_recipe_source(recipe, "train")
    counts = {name: [1] if name.endswith("-single") else workers for name in strategies}
    used = sorted({count for each in counts.values() for count in each} | {1})
    accumulation = accumulations(recipe, used)
    for count in used:
        check_batch(recipe, count, accumulation[count])
    reference = Job(REFERENCE, 1, accumulation[1])
    jobs = [
        reference if (name, count) == (REFERENCE, 1) else Job(name, count, accumulation[count])
        for name in strategies
        for count in counts[name]
    ]
    jobs += [Job(name, count, accumulation[count], launcher=other) for name, count, other in others(counts)]
    controls = []
    if recipe.precision == "float32":
        controls = [Job(REFERENCE, 1, accumulation[1], exact=True)]
    elif "trajectory" in modes:
        controls = [Job(REFERENCE, 1, accumulation[1], seed) for seed in CONTROL_SEEDS]
    return Plan(Path(recipe_name).stem, recipe_name, recipe, overrides, modes, reference, jobs, controls)


def others(counts: dict[str, list[int]]) -> list[tuple[str, int, str]]:
    """Strategy, workers and launcher of the runs that show that the launcher makes no difference.

    For each strategy that several launchers start here: the smallest run of several workers, once under each other.
    """
    return [
        (name, min(several), launcher)
        for name, numbers in counts.items()
        if (several := [number for number in numbers if number > 1])
        for launcher in startable(name)
        if launcher != choose_launcher(name, None)
    ]


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
