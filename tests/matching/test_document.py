"""docs/matching.md stays true: every trap that is tested has a row, and every test, file and bound in it exists."""

import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from launchers.comparison import bounds_for
from recipes.recipe import load_recipe

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = (ROOT / "docs" / "matching.md").read_text()
TRAPS = tomllib.loads((HERE / "traps.toml").read_text())["traps"]
FUNCTIONS = set(re.findall(r"^def (test_\w+)", (HERE / "test_traps.py").read_text(), re.MULTILINE))
GENERIC = {"test_a_sprung_trap_is_seen", "test_nothing_is_seen_where_no_trap_is_sprung"}
"""The tests that are about all of traps.toml; each of the others is about one trap."""


def rows(heading: str) -> list[list[str]]:
    """The cells of all tables below a second-level heading, their own headings left out."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = {index for index, row in enumerate(cells) if set(row) == {"---"}}
    return [row for index, row in enumerate(cells) if not {index, index + 1} & rules]


def named_tests() -> list[str]:
    return [name for row in rows("Traps") for name in re.findall(r"`([^`]+)`", row[-1])]


def test_every_row_names_a_test():
    assert all(len(row) == 5 and "`" in row[-1] for row in rows("Traps"))


def test_every_trap_that_is_tested_has_its_row():
    assert {*TRAPS, *(FUNCTIONS - GENERIC)} <= set(named_tests())


@pytest.mark.parametrize("name", named_tests())
def test_every_test_that_is_named_exists(name):
    file, _, function = name.rpartition("::")
    if file:
        assert f"\ndef {function}(" in (ROOT / file).read_text()
    else:
        assert name in TRAPS or name in FUNCTIONS - GENERIC


def test_every_file_that_is_named_exists():
    files = set(re.findall(r"`([\w/-]+\.(?:py|toml))`", PAGE)) - {"my-recipe.toml"}
    assert files
    assert [file for file in files if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize(
    "column, precision", [(2, "float64"), (3, "float32"), (3, "tf32"), (4, "bf16"), (4, "fp16")]
)
def test_the_tolerances_are_those_of_verify(column, precision):
    bounds = bounds_for(load_recipe("verify-resnet", (f"precision={precision}",)))
    written = {re.split("[,:]| of ", row[0])[0].replace(" ", "_"): row[column] for row in rows("Tolerances")}
    words = {"–": None, "control": 0.0}  # what is held to the control alone has no bound beside it
    stated = {key: words[value] if value in words else float(value) for key, value in written.items()}
    assert stated == vars(bounds)


def test_an_edit_that_no_longer_applies_says_so(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    mutant = import_module("mutant")
    with pytest.raises(
        LookupError, match=r"recipes/recipe.py no longer has 'no such text'; mend the edit in"
    ):
        mutant.mutated_source("recipes/recipe.py", [("no such text", "")])
