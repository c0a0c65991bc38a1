"""A study's report: report.html, report.md, report.csv and the drawings of both.

    python -m scaling.report STUDY_DIR      (scaling.study does the same at its end)

The page is one file that needs nothing else and fetches nothing; report.png is its most telling charts, for a README.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from scaling.analysis import analyse
from scaling.charts import DARK, Chart, svg, write_png
from scaling.content import Content, content
from scaling.findings import best_of
from scaling.tables import write_csv
from scaling.wording import plural
from training.options import parse
from training.problems import EXIT_DONE, UsageError
from training.process import guarded

UNIT = re.compile(r"(\d) (%|ms|s|J|MiB|GiB)(?!\w)")
PROGRAM = "python -m scaling.report"


@dataclass
class ReportOptions:
    """Analyse a study and write its report into its directory."""

    study_dir: tyro.conf.Positional[Path]
    """Directory of the study; it holds study.json."""


def main() -> int:
    """Write the report, and say what it found."""
    for line in write_report(parse(ReportOptions, PROGRAM).study_dir):
        print(line)
    return EXIT_DONE


def write_report(study_dir: Path) -> list[str]:
    """Analyse the study and write its report. Returns what was found and where the report is, for a terminal.

    Raises UsageError where there is no study, or where its directory cannot be written to.
    """
    analysis = analyse(study_dir)
    found = content(study_dir, analysis)
    try:
        write_csv(analysis, found.usage, study_dir / "report.csv")
        (study_dir / "report.html").write_text(page(found), encoding="utf-8")
        pictures = write_pictures(study_dir, found)
        (study_dir / "report.md").write_text(markdown(found, pictures), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{study_dir}: the report cannot be written ({error})") from None
    lines = [*best_of(found.findings), *best_of(found.loss_findings)]
    if found.left_out:
        lines.append(f"{plural(len(found.left_out), 'run')} left out, each with its reason in the report.")
    return [*lines, f"report: {study_dir / 'report.html'} (and report.md, report.csv, report.png)"]


def page(found: Content) -> str:
    """The whole page, with every chart in it."""
    from markupsafe import Markup

    def drawn(chart: Chart) -> Markup:
        return Markup(svg(chart))  # matplotlib escapes its texts

    return (
        _environment(autoescape=True)
        .get_template("report.html.jinja")
        .render(report=found, svg=drawn, css_colors=DARK)
    )


def markdown(found: Content, pictures: Mapping[str, str]) -> str:
    """The same for GitHub; `pictures`: file names by section title."""
    environment = _environment(autoescape=False)
    environment.filters["cell"] = _cell
    return environment.get_template("report.md.jinja").render(report=found, pictures=pictures)


def _cell(text: str) -> str:
    """As it may stand in a table of Markdown."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _tied(value: Any) -> Any:
    """A number and its unit stay on one line."""
    return UNIT.sub("\\1\u00a0\\2", value) if type(value) is str else value


def _environment(autoescape: bool) -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_tied if autoescape else None,
    )


def write_pictures(study_dir: Path, found: Content) -> dict[str, str]:
    """report.png and a PNG a section; returns their file names by what they show."""
    names = {}
    for what, name, charts in pictures_of(found):
        if charts:
            write_png(charts, study_dir / name)
            names[what] = name
    return names


def pictures_of(found: Content) -> Iterator[tuple[str, str, list[Chart]]]:
    """What it shows, its file name and its charts. report.png has what is most telling of all sections."""
    telling = ("-efficiency", "-parts")
    charts = [chart for section in found.sections for chart in section.charts]
    yield "report", "report.png", [chart for chart in charts if chart.name.endswith(telling)]
    for section in found.sections:
        name = f"report-{section.anchor}.png"
        yield section.title, name, [*section.charts, *section.usage]
    yield "published", "report-published.png", found.beside_charts
    yield "prediction", "report-prediction.png", found.prediction_charts


if __name__ == "__main__":
    raise SystemExit(guarded(main))
