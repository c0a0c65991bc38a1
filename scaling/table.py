"""A study's table, on the terminal and in files, and the picture of its loss curves."""

import csv
from itertools import groupby
from pathlib import Path

from scaling.results import Result

HEADER = (
    "recipe", "strategy", "workers", "final loss", "held-out loss", "accuracy", "rate", "speed-up", "worst difference",
)  # fmt: skip


def rows(results: list[Result]) -> list[tuple[str, ...]]:
    """The cells of HEADER for each run; speed-up is against the same framework's -single strategy."""
    cells: list[tuple[str, ...]] = []
    for _, group in groupby(results, key=lambda result: result.recipe):
        runs = list(group)
        bases = {run.strategy: run for run in runs if run.strategy.endswith("-single")}
        for run in runs:
            base = bases.get(f"{run.strategy.partition('-')[0]}-single")
            reference = bases.get("torch-single")
            cells.append(
                (
                    run.recipe,
                    run.strategy,
                    f"{run.workers}{'*' if run.oversubscribed else ''}",
                    f"{run.final_loss:.4f}",
                    f"{run.eval_loss:.4f}",
                    f"{run.eval_accuracy:.2%}",
                    f"{run.rate:,.0f} {run.unit}/s",
                    "n/a" if base is None else f"{run.rate / base.rate:.2f}",
                    "n/a" if reference is None else f"{run.worst_difference(reference):.1e}",
                )
            )
    return cells


NOTE = (
    "speed-up: against the -single strategy of the same framework. worst difference: of the training loss to "
    "torch-single's, relative, over all logged steps; float32 runs drift apart by chaos (docs/matching.md), "
    "launchers.verify is the proof. *: more workers than cores."
)


def print_table(results: list[Result]) -> None:
    """To standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 136, highlight=False)
    table = Table()
    for column in HEADER:
        is_name = column in ("recipe", "strategy")
        table.add_column(column, justify="left" if is_name else "right", no_wrap=is_name)
    previous = None
    for row in rows(results):
        if previous not in (None, row[0]):
            table.add_section()
        previous = row[0]
        table.add_row(*row)
    console.print(table)
    console.print(NOTE, style="dim")


def write_markdown(folder: Path, results: list[Result]) -> Path:
    """report.md"""
    lines = [HEADER, tuple("---" for _ in HEADER), *rows(results)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    path = folder / "report.md"
    path.write_text(
        f"# One training under several strategies\n\n{table}\n\n{NOTE}\n\n![training loss](report.png)\n"
    )
    return path


def write_csv(folder: Path, results: list[Result]) -> Path:
    """report.csv"""
    path = folder / "report.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows(results)])
    return path


def write_picture(folder: Path, results: list[Result]) -> Path:
    """report.png: for each recipe the loss curves lying on each other, and the rates beside."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    recipes = list(dict.fromkeys(result.recipe for result in results))
    figure, axes = plt.subplots(
        len(recipes), 2, figsize=(11, 3.6 * len(recipes)), squeeze=False, width_ratios=(3, 2)
    )
    # Okabe and Ito's colours, told apart by the colour-blind; line styles tell them apart in print.
    colours = {
        "torch-single": "#000000",
        "torch-ddp": "#0072B2",
        "torch-horovod": "#56B4E9",
        "tf-single": "#E69F00",
        "tf-mirrored": "#009E73",
        "tf-horovod": "#D55E00",
    }
    for (curves, bars), recipe in zip(axes, recipes, strict=True):
        runs = [result for result in results if result.recipe == recipe]
        names = [f"{run.strategy}, {run.workers}" for run in runs]
        shades = [colours.get(run.strategy) for run in runs]
        for index, (run, shade) in enumerate(zip(runs, shades, strict=True)):
            style = (
                index * 4,
                (4, 4 * (len(runs) - 1)),
            )  # each run has its turn in the dashes: all stay visible
            steps, losses = list(run.losses), list(run.losses.values())
            curves.plot(steps, losses, color=shade, lw=1, alpha=0.35)
            curves.plot(steps, losses, color=shade, lw=2.5, ls=style)
        curves.set(title=f"{recipe}: training loss", xlabel="step", ylabel="nats")
        keys = [
            Line2D([], [], color=shade, lw=2.5, label=name) for name, shade in zip(names, shades, strict=True)
        ]
        curves.legend(handles=keys, title="strategy, workers", fontsize=8, title_fontsize=8, frameon=False)
        bars.barh(names[::-1], [run.rate for run in runs][::-1], color=shades[::-1])
        bars.set(title=f"{runs[0].unit} a second")
        bars.xaxis.set_major_locator(MaxNLocator(5))
        for axis in (curves, bars):
            axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path = folder / "report.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
