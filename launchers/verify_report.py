"""What verify shows and writes: the worst differences, and where one went over its bound."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from launchers.commands import choose_launcher
from launchers.comparison import Bounds
from launchers.plan import Job, Plan

if TYPE_CHECKING:
    from launchers.verify import VerifyOptions

COLUMNS = {
    "one-step": ("loss", "gradient", "update", "parameters", "statistics"),
    "trajectory": ("trajectory loss", "trajectory parameters"),
}


def print_report(plans: list[Plan], modes: tuple[str, ...], seconds: float) -> None:
    """One table a recipe on standard output, then what failed, then the verdict."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 132, highlight=False)
    for plan in plans:
        columns = [column for mode in modes for column in COLUMNS[mode]]
        switched = f", with {' '.join(plan.switches)}" if plan.switches else ""
        steps = plan.recipe.steps
        table = Table(title=f"{plan.name}{switched}: worst difference to torch-single over {steps} steps")
        table.add_column("strategy", no_wrap=True)
        table.add_column("workers", justify="right")
        for column in columns:
            table.add_column(column, justify="right")
        table.add_column("")
        for (label, workers), bounds in _bounds(plan).items():
            table.add_row(label, workers, *(_bound(bounds, column) for column in columns), "", style="dim")
        table.add_section()
        for job in plan.jobs:
            cells = [_cell(job, column) for column in columns]
            table.add_row(
                job.label,
                f"{job.workers} x {job.accumulation}",
                *cells,
                "ok" if job.result.passes else "FAILED",
            )
        console.print(table)
        if plan.control is not None:
            calm = "calm enough" if plan.is_calm else "TOO WILD for trajectories: use --mode one-step"
            console.print(
                f"control (gradients perturbed by 1e-12): loss differs by {plan.control:.1e}; {calm}"
            )
        if plan.rounding is not None:
            rounding = ", ".join(f"{kind} {value:.1e}" for kind, value in plan.rounding.items())
            console.print(f"control (torch-single's own distance from the same steps in float64): {rounding}")
        for job in plan.jobs:
            for line in job.result.failures():
                console.print(f"{job.name}: {line}", style="red", soft_wrap=True)
    runs = [job for plan in plans for job in plan.jobs]
    alike = sum(job.result.passes for job in runs)
    verdict = "the same training" if all(plan.passes for plan in plans) else "NOT the same training"
    console.print(f"{verdict}: {alike} of {len(runs)} runs alike, in {seconds:.0f} s", style="bold")


def write_report(path: Path, plans: list[Plan], options: "VerifyOptions") -> None:
    """Every number that was compared, as JSON."""
    content = {
        "precision": options.precision,
        "steps": options.steps,
        "passed": all(plan.passes for plan in plans),
        "recipes": [
            {
                "recipe": plan.recipe_name,
                "recipe_id": plan.recipe.recipe_id,
                "switches": list(plan.switches),
                "control": plan.control,
                "rounding": plan.rounding,
                "calm": plan.is_calm,
                "runs": [_run(job) for job in plan.jobs],
            }
            for plan in plans
        ],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def _run(job: Job) -> dict:
    return {
        "strategy": job.strategy,
        "launcher": choose_launcher(job.strategy, job.launcher),
        "nodes": job.nodes,
        "workers": job.workers,
        "accumulation": job.accumulation,
        "passed": job.result.passes,
        "seconds": round(job.seconds, 1),
        "failures": job.result.failures(),
        "worst": {
            kind: {
                "value": worst.value,
                "bound": worst.bound,
                "where": worst.where,
                "differences": worst.seen,
            }
            for kind, worst in job.result.worst.items()
        },
    }


def _bounds(plan: Plan) -> dict[tuple[str, str], Bounds]:
    """What is allowed, by label and number of workers; where gradients are compressed, it depends on the number."""
    wider = {
        ("compressed", str(job.workers)): plan.bounds_of(job)
        for job in plan.jobs
        if plan.bounds_of(job) != plan.bounds
    }
    return {("bound", ""): plan.bounds, **wider}


def _bound(bounds: Bounds, column: str) -> str:
    value = getattr(bounds, column.replace(" ", "_"))
    return "-" if value is None else f"{value:.0e}"


def _cell(job: Job, column: str) -> str:
    worst = job.result.worst.get(column)
    if worst is None:
        return "n/a"
    text = f"{worst.value:.1e}"
    return text if worst.passes else f"[bold red]{text}[/]"
