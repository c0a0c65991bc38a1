"""What the property-based tests share: drawn values, damaged files, and what may come of either."""

import json
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from training import claim

TIMES = int(os.environ.get("TRIMARAN_FUZZ_EXAMPLES", "1"))
"""By how much more examples than in make test; make faults draws many."""
WAITS_S = 10.0

NUMBERS = st.one_of(
    st.integers(-3, 70),
    st.integers(),
    st.sampled_from([31, 32, 63, 64, 100, 1400, 20_000]).map(lambda bits: 1 << bits),
    st.sampled_from([7, 9, 12, 400, 5000]).map(lambda digits: -(10**digits) if digits == 400 else 10**digits),
    st.floats(),
)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
JSON_TEXT = st.one_of(
    st.sampled_from(
        ["[" * 9_000, '{"a":' * 9_000, "9" * 5000, "NaN", "-Infinity", '"\\ud800"', "\ufeff{}", "null"]
    ),
    VALUES.map(lambda value: as_json(value)),
)


def examples(count: int) -> settings:
    """Of one property: `count` examples in make test."""
    return settings(
        max_examples=count * TIMES,
        deadline=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
        ],
    )


def as_json(value: Any) -> str:
    """As JSON, with Python's words for what is not finite; integers that Python does not write out in hexadecimal."""
    try:
        return json.dumps(value)
    except ValueError:
        return "1" + "0" * 5000


def put(content: Any, keys: list[Any], value: Any) -> None:
    """Set what lies at `keys` in nested tables, where there is such a place; Ellipsis removes it."""
    for key in keys[:-1]:
        if not isinstance(content, dict) or key not in content:
            return
        content = content[key]
    if isinstance(content, dict):
        if value is ...:
            content.pop(keys[-1], None)
        else:
            content[keys[-1]] = value


@st.composite
def damaged(draw: st.DrawFn, content: bytes, snippets: st.SearchStrategy[bytes]) -> bytes:
    """Bytes with some pieces cut out, put in or written over."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        length = draw(st.sampled_from([0, 0, 1, 2, 7, 10**9]))
        content = content[:start] + draw(snippets) + content[start + length :]
    return content


def is_one_line(error: object) -> bool:
    """For a person: there is something, and it can be shown on a terminal."""
    return str(error).strip() != "" and str(error).isprintable()


def tree(folder: Path) -> dict[str, object]:
    """Everything in a directory: the bytes of each file, the target of each link, the kind of all else.

    But for .claim, by which a start that has found nothing wrong so far keeps others out.
    """
    found: dict[str, object] = {}
    for path in sorted(set(folder.rglob("*")) - {folder / claim.NAME}):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            found[str(path.relative_to(folder))] = ("link", os.readlink(path))
        elif stat.S_ISREG(mode):
            found[str(path.relative_to(folder))] = (
                path.read_bytes() if path.stat().st_size < 2**24 else "large"
            )
        else:
            found[str(path.relative_to(folder))] = stat.S_IFMT(mode)
    return found


NODES = ("missing", "directory", "full directory", "pipe", "dangling", "loop", "null", "empty", "sparse")


def replace(path: Path, node: str) -> None:
    """Put something else in the place of a file or directory."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    match node:
        case "directory":
            path.mkdir()
        case "full directory":
            path.mkdir()
            (path / "file").write_text("x")
        case "pipe":
            os.mkfifo(path)
        case "dangling":
            path.symlink_to("nowhere")
        case "loop":
            path.symlink_to(path.name)
        case "null":
            path.symlink_to("/dev/null")
        case "empty":
            path.touch()
        case "sparse":
            with path.open("wb") as file:
                file.truncate(2**25)


def in_time(call: Callable[[], Any]) -> Any:
    """The result of `call`, or its exception; an AssertionError where it waits for something, such as a pipe."""
    ended: list[Any] = []

    def run() -> None:
        try:
            ended.append((call(), None))
        except BaseException as error:
            ended.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(WAITS_S)
    assert ended, f"still waiting after {WAITS_S} s"
    result, error = ended[0]
    if error is not None:
        raise error
    return result
