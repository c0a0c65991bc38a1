"""docs/reliability.md stays true: each test that its matrix names exists, and each test of a fault stands in it."""

import ast
import re
from pathlib import Path

from tests.documents import table_rows
from tests.faults.runs import WORKERS

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "reliability.md").read_text()
ROWS = table_rows(PAGE, "fault")


def named_in(path: Path) -> set[str]:
    """`file.py::test_name` of all that stand in a file."""
    names = (node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))
    return {f"{path.name}::{name}" for name in names if name.startswith("test_")}


def test_the_matrix_names_every_test_of_a_fault_and_no_other() -> None:
    present = set().union(
        *(
            named_in(path)
            for path in HERE.glob("test_*.py")
            if not path.name.startswith(("test_fuzz_", "test_document"))
        )
    )
    named = re.findall(r"`(test_\w+\.py::test_\w+)`", " ".join(row[3] for row in ROWS))
    assert set(named) == present
    assert len(named) == len(present)


def test_every_row_says_where_it_applies_and_what_happens() -> None:
    for fault, strategies, outcome, _ in ROWS:
        assert fault, fault
        assert outcome, fault
        assert strategies == "all" or set(re.findall(r"`([\w-]+)`", strategies)) <= set(WORKERS), fault


def test_every_file_that_is_named_exists() -> None:
    root = HERE.parents[1]
    for name in set(re.findall(r"`((?:tests|training|launchers|distributed|telemetry)(?:/\w+)+\.py)`", PAGE)):
        assert (root / name).is_file(), name
    fuzz = {path.name for path in HERE.glob("test_fuzz_*.py")}
    assert fuzz == set(re.findall(r"`tests/faults/(test_fuzz_\w+\.py)`", PAGE))
