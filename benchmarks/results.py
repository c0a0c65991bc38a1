"""benchmarks/RESULTS.md: one section a race, each with its command, hardware, versions and date."""

import datetime
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.interval import Ratio
from telemetry.hardware import hardware, versions
from training.run import command_line

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
OPENING = (
    "# Results\n\nEach section is what its command wrote; how the figures are made stands in README.md.\n"
)


def table_row(
    name: str,
    ratio: Ratio,
    scale: float,
    unit: str,
    target: float | None = None,
    judged: float = 0.0,
    at_least: bool = False,
) -> str:
    """A row: absolute values times `scale`, the ratio, and whether `judged` keeps to the target."""
    values = [f"{value * scale:,.4g} {unit}" for value in (ratio.ours, ratio.theirs)]
    cells = [name, *values, f"{ratio.value:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}"]
    return table_line([*cells, *(("", "") if target is None else verdict(judged, target, at_least))])


def verdict(judged: float, target: float, at_least: bool = False) -> tuple[str, str]:
    """The last two cells of a row: the target, and whether it is met."""
    met = judged >= target if at_least else judged <= target
    shown = f"{target:.2f}" if round(target, 2) == target else f"{target:g}"
    return f"{'≥' if at_least else '≤'} {shown}", "met" if met else "**missed**"


def section(title: str, header: Sequence[str], rows: Sequence[str], notes: str) -> str:
    """The Markdown of one race."""
    machine, software = hardware(), versions()
    gpus = ", ".join(gpu["name"] for gpu in machine["gpus"] or []) or "no GPU"
    named = ("python", "torch", "tensorflow", "keras", "horovod", "numpy")
    packages = ", ".join(f"{name} {software[name]}" for name in named if software[name])
    lines = [
        f"## {title}",
        "",
        f"    python {' '.join(command_line())}",
        "",
        f"{datetime.date.today()}; {machine['cpu']}, {machine['cpu_cores_usable']} cores, {gpus}; {packages}.",
        "",
        table_line(header),
        table_line(["---"] * len(header)),
        *rows,
        "",
        notes,
    ]
    return "\n".join(lines) + "\n"


def write_section(path: Path, title: str, text: str) -> None:
    """Put the section in the place of the one with the same title, or at the end of the file."""
    content = path.read_text() if path.exists() else OPENING
    opening, *sections = re.split(r"^(?=## )", content, flags=re.MULTILINE)
    sections = [each.strip() + "\n" for each in sections]
    titles = [each.splitlines()[0] for each in sections]
    if f"## {title}" in titles:
        sections[titles.index(f"## {title}")] = text
    else:
        sections.append(text)
    path.write_text("\n".join([opening.strip() + "\n", *sections]))


def table_line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"
