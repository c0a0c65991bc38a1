"""docs/interoperability.md stays true: its forms, bounds, extensions and Python are those of the code."""

import re
from pathlib import Path
from typing import get_args

import pytest

from tests.documents import table_rows
from training.exporting import BOUNDS, Form
from training.foreign_names import FAMILIES, Origin
from training.importing import PICKLED, SAFE

PAGE = (Path(__file__).parents[2] / "docs" / "interoperability.md").read_text()


def test_every_form_stands_with_its_bound() -> None:
    rows = table_rows(PAGE, "`--to`")
    assert {row[0].strip("`"): row[-1] for row in rows} == {
        key: f"{bound:g}" for key, bound in BOUNDS.items()
    }
    assert tuple(row[0].strip("`") for row in rows) == get_args(Form)
    assert f"--to {'|'.join(get_args(Form))} " in PAGE


def test_every_origin_and_every_kind_of_file_is_named() -> None:
    assert get_args(Origin) == tuple(FAMILIES)
    assert all(f"--from {origin}" in PAGE for origin in get_args(Origin))
    assert all(f"`{suffix}`" in PAGE for suffix in (*SAFE, *PICKLED))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"[a-z]+/\w+\.py", PAGE))))
def test_a_file_that_is_named_exists(name: str) -> None:
    assert (Path(__file__).parents[2] / name).is_file()
