"""Each switch of a recipe's [performance], held by launchers.verify to the training without it, in one table.

    python -m benchmarks.verify_switches --precisions float32,bf16

Writes a section into benchmarks/RESULTS.md; ends with 1 where a run is not the same training. Takes 50 minutes
on 2 CPU cores.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby, product
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, section, table_line, write_section
from launchers.commands import LAUNCHERS
from launchers.environment import CHECKOUT
from training.options import parse, warn
from training.problems import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, UsageError
from training.process import guarded

HEADER = (
    "switch",
    "precision",
    "strategies",
    "runs alike",
    "loss, bound",
    "gradient, bound",
    "update, bound",
)
COMPARED = ("loss", "gradient", "update")


GPT, RESNET = "verify-gpt", "verify-resnet-gelu"
RECIPES = {"gpt": GPT, "resnet": RESNET}
"""By the family of their models: those without a ReLU, which has bounds in every precision (docs/matching.md)."""


@dataclass(frozen=True)
class Case:
    """A switch: the strategies that have it (the others leave it alone), and the recipes that verify it."""

    strategies: tuple[str, ...]
    recipes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {GPT: (), RESNET: ()})
    """Of the models that have it, each with overrides for the switch to do something there."""


ALL = tuple(LAUNCHERS)
TORCH = tuple(name for name in ALL if name.startswith("torch-"))
TENSORFLOW = tuple(name for name in ALL if name.startswith("tf-"))
DISTRIBUTED = tuple(name for name in ALL if not name.endswith("-single"))
SEVERAL_BUCKETS = {GPT: ("model.width=256",), RESNET: ("model.width=32",)}  # 6 and 8 MiB
CASES = {
    "compile=true": Case(TORCH),
    "xla=true": Case(TENSORFLOW),
    "fused_optimizer=false": Case(TORCH),
    "flash_attention=false": Case(TORCH, {GPT: ()}),
    "activation_checkpointing=true": Case(ALL),
    "channels_last=true": Case(TORCH, {RESNET: ()}),
    "bucket_mib=1": Case(DISTRIBUTED, SEVERAL_BUCKETS),
    "static_graph=true": Case(("torch-ddp",)),
    "gradient_compression=bf16": Case(("torch-ddp", "tf-mirrored")),
    "gradient_compression=fp16": Case(DISTRIBUTED),
}
"""What is no default, of all that [performance] has but the loader's two."""


def strategies_with(override: str) -> set[str]:
    """Those that do something at `performance.key=value`, whatever the value."""
    key = override.removeprefix("performance.").partition("=")[0]
    cases = [case for switch, case in CASES.items() if switch.partition("=")[0] == key]
    return {strategy for case in cases for strategy in case.strategies}


@dataclass
class VerifySwitchesOptions:
    """Hold each switch of speed to the training without it."""

    switches: str = "all"
    """`all`, or some of those in the table, separated by commas: compile=true,xla=true."""
    precisions: str = "float32,bf16"
    """Separated by commas."""
    recipes: str = f"{GPT},{RESNET}"
    """Separated by commas; a switch that a model does not have is not verified there."""
    workers: str = "1,2"
    """Worker counts, separated by commas; -single strategies run with 1."""
    steps: int = 5
    """Optimizer steps of each run."""
    results: Path = RESULTS
    """The Markdown file to write into."""


def main() -> int:
    """A table a recipe, written anew with each row that is there. Returns 0 if all runs are alike, 1 if not."""
    options = parse(VerifySwitchesOptions, "python -m benchmarks.verify_switches")
    runs = chosen_runs(options)
    passed = True
    for recipe, of_recipe in groupby(runs, key=itemgetter(0)):
        title = f"Switches, held to the training without, {recipe}: {options.switches}, {options.precisions}"
        rows: list[str] = []
        for _, switch, precision in of_recipe:
            report = verify(switch, recipe, precision, options)
            passed = passed and report["passed"]
            rows.append(row(switch, report))
            print(rows[-1], flush=True)
            write_section(options.results, title, section(title, HEADER, rows, notes(options)))
    return EXIT_DONE if passed else EXIT_FAILED


def chosen_runs(options: VerifySwitchesOptions) -> list[tuple[str, str, str]]:
    """(recipe, switch, precision), recipe by recipe, where the model has the switch. Raises UsageError for none."""
    switches = list(CASES) if options.switches == "all" else options.switches.split(",")
    for switch in switches:
        if switch not in CASES:
            raise UsageError(f"--switches: found {switch!r}, expected all or some of: {', '.join(CASES)}")
    recipes = options.recipes.split(",")
    for recipe in recipes:
        if recipe not in RECIPES.values():
            raise UsageError(f"--recipes: found {recipe!r}, expected some of: {', '.join(RECIPES.values())}")
    combined = product(recipes, switches, options.precisions.split(","))
    runs = [run for run in combined if run[0] in CASES[run[1]].recipes]
    if not runs:
        raise UsageError(
            f"--recipes: found {options.recipes}, none of which has the switch; expected another"
        )
    return runs


def verify(switch: str, recipe: str, precision: str, options: VerifySwitchesOptions) -> dict[str, Any]:
    """The report of one launchers.verify. Raises UsageError where that could not begin."""
    case = CASES[switch]
    overrides = case.recipes[recipe]
    arguments = ["--recipe", recipe, "--strategies", ",".join(case.strategies), "--mode", "one-step"]
    arguments += ["--precision", precision, "--workers", options.workers, "--steps", str(options.steps)]
    arguments += ["--set", *overrides] if overrides else []
    with tempfile.TemporaryDirectory(prefix="verify-switches-") as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "launchers.verify", *arguments]
        command += ["--switch", f"performance.{switch}", "--report", str(report)]
        code = subprocess.run(command, cwd=CHECKOUT, stdout=sys.stderr).returncode
        if code == EXIT_USAGE or not report.exists():
            raise UsageError(
                f"{switch}, {recipe}, {precision}: launchers.verify did not begin; it says why above"
            )
        content: dict[str, Any] = json.loads(report.read_text())
    for run in content["recipes"][0]["runs"]:
        for failure in run["failures"]:
            warn(f"{switch}, {recipe}, {precision}: {run['strategy']} x {run['workers']}: {failure}")
    return content


def row(switch: str, report: dict[str, Any]) -> str:
    """Runs that are alike, and of each figure the worst of all runs beside the bound that this run was held to."""
    runs = report["recipes"][0]["runs"]
    strategies = list(dict.fromkeys(run["strategy"] for run in runs))
    alike = f"{sum(run['passed'] for run in runs)} of {len(runs)}"
    cells = [f"`{switch}`", report["precision"], shortened(strategies), alike]
    for figure in COMPARED:
        seen = [run["worst"][figure] for run in runs if figure in run["worst"]]
        worst = max(seen, key=lambda each: each["value"] / each["bound"], default=None)
        cells.append("n/a" if worst is None else f"{worst['value']:.1e}, {worst['bound']:.0e}")
    return table_line(cells)


def shortened(strategies: list[str]) -> str:
    """`torch-*` for all of PyTorch's, and so on."""
    names = {ALL: "all", TORCH: "torch-*", TENSORFLOW: "tf-*", DISTRIBUTED: "all of several workers"}
    return names.get(tuple(strategies), ", ".join(strategies))


def notes(options: VerifySwitchesOptions) -> str:
    """What stands below the table."""
    return (
        "The reference is torch-single without the switch; each run starts each step from the reference's state. Of "
        f"all runs, over {options.steps} steps with {options.workers.replace(',', ' and ')} workers, the worst against "
        "its bound (docs/matching.md). Strategies that have no such switch are left out."
    )


if __name__ == "__main__":
    raise SystemExit(guarded(main))
