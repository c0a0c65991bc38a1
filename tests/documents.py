"""What the tests of several pages of docs/ read: the tables of a page, and what the code can say."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path


def spoken(paths: Iterable[Path]) -> list[str]:
    """Every string in these files, with an ellipsis for each value put into it."""
    found = []
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def is_said(line: str, texts: Iterable[str]) -> bool:
    """Whether a line of a table, with its backticks and an ellipsis for each value, is in one of the texts."""
    pattern = ".*".join(re.escape(part) for part in re.split(r"\s?…", line.strip("`")))
    return any(re.search(pattern, text) for text in texts)


def table_rows(page: str, first_heading: str) -> list[list[str]]:
    """The cells of the page's one table whose first heading is this."""
    (table,) = re.findall(rf"^\| {re.escape(first_heading)} \|.*?(?=\n\n|\Z)", page, re.MULTILINE | re.DOTALL)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
