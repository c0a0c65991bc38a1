"""The proof of matching: run the strategies, compare them with torch-single, step by step.

    python -m launchers.verify --strategies all --workers 1,2,3,4

Two modes (docs/matching.md says why). one-step: each step starts from the reference's state, at any learning rate.
trajectory: the runs go freely, on recipes calm enough, which a control shows. Every run is a process of the ordinary
scripts, started as `launchers.train` would; what is compared is read from their run directories.
"""

import contextlib
import json
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from launchers import commands, comparison
from launchers.child import run_quietly
from launchers.plan import LOOPBACK_NAMES, Job, Plan, make_plan
from launchers.verify_report import print_report, write_report
from recipes.recipe import load_recipe
from training.options import Overrides, flattened, parse, warn
from training.problems import EXIT_DONE, EXIT_FAILED, UsageError
from training.process import guarded
from training.run import check_writable

PROGRAM = "python -m launchers.verify"
DEFAULT_RECIPES = {"float64": ("verify-resnet", "verify-gpt")}
OTHER_RECIPES = ("verify-resnet-gelu", "verify-gpt")
"""But in float64 no ReLU: one that rounding sends the other way moves gradients by 1e-2 in any framework."""


@dataclass
class VerifyOptions:
    """Prove that the strategies train alike on this machine."""

    strategies: str = "all"
    """`all`, or names separated by commas."""
    workers: str = "1,2"
    """Worker counts, separated by commas; -single strategies run with 1."""
    precision: Literal["float64", "float32", "tf32", "bf16", "fp16"] = "float64"
    """All but float64 are compared in one-step mode only, by default without a ReLU (docs/matching.md says why)."""
    nodes: int = 1
    """Spread the runs of several workers over this many nodes, which are all this machine (with Horovod 2 at most)."""
    steps: int = 20
    """Optimizer steps of each run."""
    mode: Literal["both", "one-step", "trajectory"] = "both"
    """What to compare."""
    recipe: str | None = None
    """A recipe of your own (default: a small ResNet and a small GPT with everything in play)."""
    set: Overrides = field(default_factory=list)
    """Override keys of the recipe."""
    switch: Overrides = field(default_factory=list)
    """Override keys of [performance] in every run but the reference, so that they are held to the same tolerances."""
    report: Path | None = None
    """Write every number that was compared to this file, as JSON."""
    work_dir: Path | None = None
    """Keep the run directories here (default: a temporary directory, removed at the end)."""
    jobs: int | None = None
    """Runs at the same time (default: one a core, or 1 where there are GPUs)."""

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes asked for; trajectory exists in float64 only."""
        chosen = ("one-step", "trajectory") if self.mode == "both" else (self.mode,)
        return tuple(mode for mode in chosen if self.precision == "float64" or mode == "one-step")


def main() -> int:
    """Plan, run, compare, report. Returns 0 if everything passed, 1 if not, 2 for a mistake in the command."""
    started = time.monotonic()
    options = parse(VerifyOptions, PROGRAM)
    plans = _plans(options)
    for option, path in (("--report", options.report), ("--work-dir", options.work_dir)):
        if path is not None:
            check_writable(option, path)
    with contextlib.ExitStack() as stack:
        if options.work_dir is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trimaran-verify-")))
        else:
            folder = options.work_dir
            if folder.exists() and any(folder.iterdir()):
                raise UsageError(f"--work-dir {folder}: is not empty; expected a new directory")
            folder.mkdir(parents=True, exist_ok=True)
        for plan in plans:
            _run_plan(plan, folder / plan.name, options)
        passed = all(plan.passes for plan in plans)
        print_report(plans, options.modes, time.monotonic() - started)
        if options.report is not None:
            write_report(options.report, plans, options)
    return EXIT_DONE if passed else EXIT_FAILED


def _plans(options: VerifyOptions) -> list[Plan]:
    """One plan a recipe. Raises UsageError for what cannot be run."""
    if options.precision != "float64" and options.mode == "trajectory":
        raise UsageError(
            f"--mode trajectory: needs --precision float64; chaos makes anything of {options.precision}'s rounding"
        )
    names = list(commands.LAUNCHERS) if options.strategies == "all" else options.strategies.split(",")
    for name in names:
        if name not in commands.LAUNCHERS:
            raise UsageError(
                f"--strategies: found {name!r}, expected all or some of: {','.join(commands.LAUNCHERS)}"
            )
        try:
            commands.check_launcher(name, commands.choose_launcher(name, None))
        except UsageError as error:
            raise UsageError(f"{name}: {error}; or compare without it, by --strategies") from None
    try:
        workers = sorted({int(text) for text in options.workers.split(",")})
    except ValueError:
        raise UsageError(f"--workers: found {options.workers!r}, expected numbers such as 1,2,4") from None
    overrides, switches = flattened(options.set), flattened(options.switch)
    for switch in switches:
        if not switch.startswith("performance."):
            raise UsageError(
                f"--switch {switch}: expected performance.key=value; --set takes the recipe's others"
            )
    most = len(LOOPBACK_NAMES) if any(name.endswith("-horovod") for name in names) else options.nodes
    if not 1 <= options.nodes <= most:
        raise UsageError(
            f"--nodes: found {options.nodes}, expected 1 or more, and {most} at most with Horovod"
        )
    if options.steps < 1 or workers[0] < 1:
        raise UsageError(
            f"--steps {options.steps}, --workers {options.workers}: expected numbers of 1 or more"
        )
    fixed = (f"steps={options.steps}", f"precision={options.precision}", "run.log_every=1")
    return [
        make_plan(
            recipe,
            load_recipe(recipe, (*overrides, *fixed)),
            names,
            workers,
            (*overrides, *fixed),
            options.modes,
            options.nodes,
            switches,
        )
        for recipe in (
            [options.recipe] if options.recipe else DEFAULT_RECIPES.get(options.precision, OTHER_RECIPES)
        )
    ]


def _run_plan(plan: Plan, folder: Path, options: VerifyOptions) -> None:
    """Reference first, then the others side by side, each compared as soon as it is there."""
    folder.mkdir()
    reference = folder / plan.reference.name
    _start(plan, plan.reference, folder)
    with ThreadPoolExecutor(options.jobs or commands.default_jobs()) as pool:
        list(pool.map(lambda job: _start(plan, job, folder), plan.controls))
        if plan.controls and plan.controls[0].exact:
            plan.rounding = comparison.rounding_of(plan.recipe, reference, folder / plan.controls[0].name)
        elif plan.controls:
            plan.control = comparison.control_difference(
                reference, [folder / job.name for job in plan.controls]
            )
        list(pool.map(lambda job: _start_and_compare(plan, job, folder, options), plan.jobs))
    for job in plan.jobs:
        peer = plan.statistics_peer(job)
        if peer is not None and job.result.buffers and peer.result.buffers:
            comparison.compare_statistics(plan.recipe, peer.result, job.result)
    if options.work_dir is None:
        shutil.rmtree(folder)


def _start_and_compare(plan: Plan, job: Job, folder: Path, options: VerifyOptions) -> None:
    reference, ours = folder / plan.reference.name, folder / job.name
    if job is not plan.reference:
        if not _start(plan, job, folder):
            return
        expected, found = (json.loads((path / "run.json").read_text()) for path in (reference, ours))
        expected["recipe_id"] = plan.switched.recipe_id
        comparison.compare_fingerprints(expected, found, job.result)
    if "one-step" in options.modes:
        comparison.compare_one_step(plan.recipe, reference, ours, job.result, plan.bounds_of(job))
    if "trajectory" in options.modes:
        comparison.compare_trajectory(plan.recipe, reference, ours, job.result, plan.bounds_of(job))
    if options.work_dir is None and job is not plan.reference:
        shutil.rmtree(ours)  # a large model's replay is large
    verdict = "alike" if job.result.passes else f"DIFFERS ({job.result.failures()[0]})"
    print(f"{plan.name}: {job.name} {verdict}", flush=True)


def _start(plan: Plan, job: Job, folder: Path) -> bool:
    """Run one job's process to its end; what went wrong is kept in its result."""
    parts = plan.commands(job, folder)
    began = time.monotonic()
    with ThreadPoolExecutor(len(parts)) as pool:
        ends = list(pool.map(lambda part: run_quietly(part[0], part[1], folder / job.name), parts))
    job.seconds = time.monotonic() - began
    code, why = next((end for end in ends if end[0]), ends[0])
    if code == 0:
        return True
    job.result.mismatches.append(f"did not run: {why}")
    warn(f"{plan.name}: {job.name} did not run: {why}")
    if job is plan.reference:
        raise UsageError(f"{plan.name}: the reference did not run ({why}); nothing can be compared")
    return False


if __name__ == "__main__":
    raise SystemExit(guarded(main))
