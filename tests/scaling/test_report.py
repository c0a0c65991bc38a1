"""The whole report of a small study: it stands alone, tells everything, and a browser has nothing to say against it."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scaling import report
from scaling.report import write_report
from tests.browser import Browser
from tests.scaling.generated import planned, write_entries
from tests.scaling.report_cases import NASTY, SVG, write_small_study
from training.options import parse
from training.problems import UsageError

CHARTS = [
    "demo-weak-efficiency", "demo-weak-speed-up", "demo-weak-parts", "demo-weak-lost", "demo-weak-losses",
    "demo-weak-differences", "demo-weak-host-cpu-percent", "demo-weak-published",
]  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written and reported once."""
    study_dir = write_small_study(tmp_path_factory.mktemp("study"))
    (study_dir / "lines.txt").write_text("\n".join(write_report(study_dir)))
    return study_dir


@pytest.fixture(scope="module")
def page(study: Path) -> ElementTree.Element:
    """As strict XML, which asks for more than browsers do."""
    text = (study / "report.html").read_text(encoding="utf-8")
    doctype, _, rest = text.partition("\n")
    assert doctype == "<!DOCTYPE html>"
    return ElementTree.fromstring(rest)


def shown(page: ElementTree.Element) -> str:
    return " ".join("".join(page.itertext()).replace("\u00a0", " ").split())


def test_the_page_stands_alone_and_has_every_chart(study: Path, page: ElementTree.Element) -> None:
    text = (study / "report.html").read_text(encoding="utf-8")
    addresses = set(re.findall(r'[\w:]+\s*=\s*"[^"]*//[^"]*"', text))
    assert {address.partition("=")[0] for address in addresses} <= {"xmlns", "xmlns:xlink"}
    assert not re.search(r"@import|url\((?!#)|<script|<link|<img|<iframe", text)
    drawings = page.findall(f".//{SVG}svg")
    assert [drawing.get("aria-labelledby") for drawing in drawings] == [f"{name}-caption" for name in CHARTS]
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)) > 100
    assert set(re.findall(r'(?:url\(|href="|labelledby=")#?([^")]+)', text)) <= set(ids)


def test_the_page_tells_every_case_and_every_run_that_was_left_out(page: ElementTree.Element) -> None:
    told = shown(page)
    rows = [[cell.text for cell in row.findall("td")] for row in page.iter("tr")]
    cases = [row[:4] for row in rows if row[:1] == ["demo"] and len(row) > 8 and row[1] in ("weak", "base")]
    assert cases == [
        ["demo", "base", "torch-single", "1"],
        ["demo", "base", "tf-single", "1"],
        *(["demo", "weak", "torch-ddp", count] for count in ("1", "2", "4")),
        *(["demo", "weak", "tf-mirrored", count] for count in ("1", "2", "4")),
    ]
    assert ["demo-weak-tf-mirrored-2-r3", "failed", NASTY] in rows
    assert ["demo-weak-tf-mirrored-4-r1", "never started", "was not started"] in rows
    assert any(row[:2] == ["demo-weak-torch-ddp-4-r1", "oversubscribed"] for row in rows)
    assert "1 run failed, 1 run never started and 1 run oversubscribed" in told
    assert "A worker here is one CPU core with one thread." in told
    assert "a step of tf-mirrored takes 1.4" in told
    assert "python -m scaling.study --name generated --recipes demo" in told


def test_under_the_charts_stands_what_differs_and_what_they_do_not_show(
    study: Path, page: ElementTree.Element
) -> None:
    told, analysis = shown(page), json.loads((study / "analysis.json").read_text())
    (differing,) = (one["sentences"] for one in analysis["differences"])
    assert differing
    assert all(sentence in told for sentence in differing)
    assert "The parts add up to the step within 2 %" in told
    assert "Not in the charts: demo weak torch-ddp 4: oversubscribed" in told
    assert "Not fitted: Gustafson: found 2, expected at least 2 worker counts above 1" in told


def test_the_last_lines_say_what_was_found_and_where_it_is(study: Path) -> None:
    lines = (study / "lines.txt").read_text().splitlines()
    assert re.fullmatch(
        r"demo, weak, 2 workers: (torch-ddp|tf-mirrored) keeps 9\d\.\d % \[\d+\.\d, \d+\.\d\] of two workers' speed "
        r"\(largest loss: exposed communication, \d+\.\d % of a step\); least is .*",
        lines[0],
    )
    assert re.match(r"demo: losses of \d+ runs .* at worst 1.0e-06", lines[1])
    assert lines[2].startswith("3 runs left out")
    assert lines[3] == f"report: {study / 'report.html'} (and report.md, report.csv, report.png)"


def test_the_table_has_the_figures_of_the_analysis(study: Path) -> None:
    with (study / "report.csv").open(newline="") as file:
        rows = {(row["strategy"], row["workers"]): row for row in csv.DictReader(file)}
    analysis = json.loads((study / "analysis.json").read_text())
    assert len(rows) == len(analysis["cases"]) == 8
    for case in analysis["cases"]:
        row = rows[case["strategy"], str(case["workers"])]
        for name in ("step_time_s", "efficiency", "mfu"):
            found = case[name] or {"value": "", "low": "", "high": ""}
            assert [row[name + end] for end in ("", "_low", "_high")] == [
                "" if found[end] is None else str(found[end]) for end in ("value", "low", "high")
            ]
    assert [rows["tf-mirrored", "2"][f"runs_{which}"] for which in ("used", "planned")] == ["2", "3"]
    assert rows["torch-ddp", "4"]["efficiency"] == ""
    assert rows["torch-ddp", "4"]["reason"].startswith("oversubscribed")
    assert rows["torch-ddp", "4"]["oversubscribed"] == "True"
    assert rows["torch-ddp", "2"]["peak_memory_bytes"] == str(300 * 2**20)
    assert float(rows["torch-ddp", "2"]["part_exchange_s"]) == pytest.approx(0.01, rel=0.2)


def test_the_markdown_shows_pictures_that_are_there_and_whole_tables(study: Path) -> None:
    text = (study / "report.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert pictures == ["report-demo-weak.png", "report-published.png"]
    for name in [*pictures, "report.png"]:
        assert (study / name).read_bytes().startswith(b"\x89PNG")
    widths: dict[str, set[int]] = {}
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        widths[block.partition("\n")[0]] = cells
    assert all(len(cells) == 1 for cells in widths.values())
    assert any("efficiency" in head for head in widths)
    assert "<script" not in text
    assert "\n\n\n\n" not in text


@pytest.mark.parametrize("state", ["failed", "planned"])
def test_a_study_of_which_nothing_came_has_a_report_that_says_so(tmp_path: Path, state: str) -> None:
    runs = [("torch-single", 1, "base"), ("torch-ddp", 2, "weak")]
    entries = [
        planned(f"r{number}", strategy, workers, way, recipe="mine/a b&<c>.toml", state=state, reason=NASTY)
        for number, (strategy, workers, way) in enumerate(runs)
    ]
    write_entries(tmp_path, entries)
    lines = write_report(tmp_path)
    assert lines[0].startswith("a b&<c>, weak: no efficiency: no run reached a steady step time")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    told = shown(ElementTree.fromstring(text.partition("\n")[2]))
    assert told.count(NASTY) == 2
    assert NASTY.replace("|", "\\|").replace("<", "&lt;") in (tmp_path / "report.md").read_text(
        encoding="utf-8"
    )


def test_a_recipe_of_any_name_has_a_page_that_holds(tmp_path: Path) -> None:
    write_small_study(tmp_path, recipe="mine/a b&<c>.toml")
    write_report(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = ElementTree.fromstring(text.partition("\n")[2])
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert all(re.fullmatch(r"[\w.-]+", one) for one in ids)
    assert (tmp_path / "report-a-b-c-weak.png").is_file()


def test_a_directory_without_a_study_is_one_line(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(report, "parse", lambda kind, program: parse(kind, program, [str(tmp_path)]))
    with pytest.raises(UsageError, match=r"study.json: not found"):
        report.main()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_a_browser_shows_every_chart_and_asks_for_nothing_else(
    browser: Browser, study: Path, width: int, scheme: str
) -> None:
    browser.messages.clear()
    browser.requests.clear()
    browser.look(width, scheme)
    browser.open(study / "report.html")
    assert browser.messages == []
    assert set(browser.requests) == {(study / "report.html").resolve().as_uri()}
    boxes = browser.value(
        "[...document.querySelectorAll('svg')].map(e => e.getBoundingClientRect()).map(b => [b.width, b.height])"
    )
    assert len(boxes) == len(CHARTS)
    assert all(min(300, 0.8 * width) < box[0] <= width and box[1] > 100 for box in boxes)
    assert browser.value("document.documentElement.scrollWidth") <= width
    page_color, ink = (
        browser.value(f"getComputedStyle(document.querySelector({element!r})).{name}")
        for element, name in (("body", "backgroundColor"), ("svg text", "fill"))
    )
    bright = [sum(map(int, re.findall(r"\d+", color)[:3])) / 765 for color in (page_color, ink)]
    assert (
        (bright[0] > 0.9 and bright[1] < 0.3) if scheme == "light" else (bright[0] < 0.2 and bright[1] > 0.7)
    )
