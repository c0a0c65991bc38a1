from pathlib import Path

from benchmarks.interval import Ratio
from benchmarks.results import section, table_row, write_section


def test_a_section_takes_the_place_of_the_one_with_its_title(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    for title, text in (("a", "old"), ("a, more", "kept"), ("a", "new")):
        write_section(path, title, f"## {title}\n\n{text}\n")
    content = path.read_text()
    assert content.startswith("# Results\n")
    assert content.endswith("## a\n\nnew\n\n## a, more\n\nkept\n")
    assert "old" not in content


def test_a_row_says_whether_the_target_is_met() -> None:
    ratio = Ratio(ours=0.102, theirs=0.1, low=1.01, high=1.03)
    assert table_row("step", ratio, 1e3, "ms", 1.02, ratio.high) == (
        "| step | 102 ms | 100 ms | 1.020 | 1.010 to 1.030 | ≤ 1.02 | **missed** |"
    )
    assert table_row("step", ratio, 1e3, "ms", 1.04, ratio.high).endswith("| ≤ 1.04 | met |")
    assert table_row("rate", ratio, 1, "/s", 1.0, ratio.low, at_least=True).endswith("| ≥ 1.00 | met |")
    assert table_row("rate", ratio, 1, "/s", 1.05, ratio.low, at_least=True).endswith(
        "| ≥ 1.05 | **missed** |"
    )


def test_a_section_has_as_many_columns_as_its_header() -> None:
    row = table_row("step", Ratio(1, 1, 1, 1), 1, "s")
    lines = section(
        "title", ("", "ours", "bare", "ratio", "interval", "target", ""), [row], "notes"
    ).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 3
    assert {line.count("|") for line in table} == {8}
