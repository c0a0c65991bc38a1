"""docs/slurm.md stays true: its lines, commands, keys and files are those of the code."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from launchers import batch, submit
from recipes.recipe import load_recipe
from tests.documents import is_said, spoken, table_rows
from training.process import guarded

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "slurm.md").read_text()
SPEAKERS = (
    *(ROOT / "launchers" / f"{name}.py" for name in ("submit", "batch")),
    *(ROOT / "distributed" / f"{name}.py" for name in ("topology", "devices", "network", "horovod_setup")),
    *(ROOT / "training" / f"{name}.py" for name in ("agreement", "run", "stopping")),
)
VALUE = re.compile(r"\$\{[^}]*\}|\$\w+")


def texts() -> list[str]:
    """Every string that can be said, with an ellipsis for each value put into it."""
    files = (ROOT / "slurm").glob("*.sbatch")
    return [*(VALUE.sub("…", path.read_text()) for path in files), *spoken(SPEAKERS)]


def rows(first_heading: str) -> list[list[str]]:
    """The cells of the one table whose first heading is this."""
    return table_rows(PAGE, first_heading)


@pytest.mark.parametrize("line", [row[0] for row in rows("line")])
def test_a_line_that_is_explained_is_one_that_is_said(line: str) -> None:
    assert is_said(line, texts()), line


def commands() -> list[str]:
    """The commands of the page that submit something, each on one line."""
    lines = PAGE.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("python -m launchers.submit ")]


@pytest.mark.parametrize("line", commands())
def test_a_command_is_one_that_works(line: str, monkeypatch, capsys) -> None:
    words = shlex.split(line)
    recipe = words[words.index("--recipe") + 1]
    load_recipe(recipe, ("data.path=x",))
    words[words.index("--recipe") + 1] = "digits-resnet18"  # the data of which is here
    monkeypatch.setattr(batch, "DEFAULT_SITE", ROOT / "absent")
    monkeypatch.setattr(sys, "argv", [*words[2:], "--dry-run", "--set", "data.global_batch=64"])
    assert guarded(submit.main) == 0
    assert capsys.readouterr().err == ""


def test_every_file_and_every_key_that_is_named_is_there() -> None:
    named = re.findall(r"`((?:slurm|docs|tests|launchers|training)/[\w./-]+)`", PAGE)
    own = {"slurm/site.toml"}  # everybody's own
    assert len(set(named)) >= 3
    assert not [name for name in set(named) - own if not (ROOT / name).exists()]
    for name in batch.VARIABLES.values():
        assert name in PAGE, name
    assert {"signal", "mem"} <= set(batch.FIELDS)


def test_each_strategy_says_what_a_task_is() -> None:
    told = set(re.findall(r"[a-z]+-[a-z]+", " ".join(row[0] for row in rows("strategy"))))
    assert told == {path.stem.replace("_", "-") for path in (ROOT / "slurm").glob("t*.sbatch")}
