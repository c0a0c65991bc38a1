"""What all charts share: told apart without colour, dark or light by the page, and nothing of one in another."""

import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib import image

from scaling.charts import DARK, INK, LOOKS, PART_LOOKS, Chart, dodged, legend_below, svg, write_png
from scaling.wording import PARTS, STRATEGIES
from tests.scaling.report_cases import SVG


def chart(name: str = "one") -> Chart:
    def draw(axes) -> None:
        for strategy, look in LOOKS.items():
            axes.plot([1, 2], [1, 2], label=strategy, **look)
        axes.plot([1, 2], [2, 2], label="ideal")
        legend_below(axes)

    return Chart(name, "A <title> & $x$", "what it shows", draw)


def luminance(color: str) -> float:
    """Relative, of #rrggbb (WCAG 2)."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_strategy_and_part_is_told_without_its_colour() -> None:
    assert set(LOOKS) == set(STRATEGIES)
    assert set(PART_LOOKS) == {*PARTS, "slower compute"}
    for first, second in combinations(LOOKS.values(), 2):
        assert first["color"] != second["color"]
        assert (first["marker"], first["linestyle"]) != (second["marker"], second["linestyle"])
    assert len({look["hatch"] for look in PART_LOOKS.values()}) == len(PART_LOOKS)


@pytest.mark.parametrize("strategy", [name for name in LOOKS if not name.endswith("-single")])
def test_lines_stand_out_from_both_pages(strategy: str) -> None:
    light = LOOKS[strategy]["color"]
    for color, page in ((light, "#ffffff"), (DARK.get(light, light), "#14171b")):
        bright, dim = sorted((luminance(color), luminance(page)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) > 1.9, color


def test_an_svg_takes_its_colours_from_the_page_and_fetches_nothing() -> None:
    text = svg(chart())
    root = ElementTree.fromstring(text)
    assert root.get("width") is None  # as wide as the page lets it
    assert root.get("aria-labelledby") == "one-caption"
    assert INK not in text
    assert "currentColor" in text
    assert all(color not in text for color in DARK)
    assert "var(--0072b2)" in text
    assert "A <title> & $x$" in ["".join(one.itertext()) for one in root.iter(f"{SVG}text")]
    assert all(name.startswith("one-") for name in re.findall(r'\bid="([^"]+)"', text))
    assert not re.search(r"<script|<image|(href|url)[=(]\"?(?!#)\w", text)


def test_two_charts_of_a_page_share_no_id() -> None:
    first, second = (set(re.findall(r'\bid="([^"]+)"', svg(chart(name)))) for name in ("one", "two"))
    assert first and not first & second


def test_a_legend_names_the_strategies_first() -> None:
    words = ["".join(one.itertext()) for one in ElementTree.fromstring(svg(chart())).iter(f"{SVG}text")]
    assert [word for word in words if word in {*LOOKS, "ideal"}] == [*LOOKS, "ideal"]


def test_a_picture_has_room_for_all(tmp_path: Path) -> None:
    write_png([chart("a"), chart("b"), chart("c")], tmp_path / "all.png")
    write_png([chart("a")], tmp_path / "one.png")
    all_of_them, one = (image.imread(tmp_path / name) for name in ("all.png", "one.png"))
    assert all_of_them.shape[:2] == pytest.approx((2 * one.shape[0], 2 * one.shape[1]), abs=2)
    assert one[0, 0, :3].tolist() == [1, 1, 1]


def test_marks_of_one_count_lie_beside_each_other() -> None:
    left, middle, right = (dodged([4], place, 3, [1, 4, 8])[0] for place in range(3))
    assert 3.5 < left < middle == 4 < right < 4.5
