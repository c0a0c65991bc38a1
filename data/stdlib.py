"""The sources of the running Python's standard library as bytes: some 12 MB of real text on every machine.

It differs from one Python release to the next, so runs are comparable where their data fingerprints are
equal.
"""

import hashlib
import os
import sysconfig
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.windows import PaddedDocuments, StreamWindows, open_layout, paragraph_bounds

_HELD_OUT_ONE_IN = 20
_LEFT_OUT_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
# Written when Python was built or by the site's administrator: not alike on two machines with the same
# release.
_LEFT_OUT_FILES = ("_sysconfigdata", "sitecustomize", "usercustomize")


def open_stdlib(split: str, layout: str, context: int, vocabulary: int) -> StreamWindows | PaddedDocuments:
    """The standard library as windows of a stream, or (padded) as paragraphs: text between blank lines."""
    text = read_stdlib(split)
    bounds = paragraph_bounds(text) if layout == "padded" else np.empty((0, 2), np.int64)
    return open_layout(text, bounds, layout, context, vocabulary, "data.source = 'stdlib'")


def read_stdlib(split: str) -> np.ndarray:
    """All files of one split in the order of their paths, a newline after each: uint8 [number of bytes].

    One file in twenty is held out, chosen by a hash of its path, so that the split does not depend on which
    other files there are. Tests, installed packages and files generated for one machine are left out.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [path for path in _relative_paths(root) if _is_held_out(path) == (split == "validation")]
    if not paths:
        raise DataError(
            f"data.source: {root} has no .py files, expected Python's standard library; use another Python"
        )
    return np.frombuffer(b"".join((root / path).read_bytes() + b"\n" for path in paths), np.uint8)


def _relative_paths(root: Path) -> list[str]:
    found = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [
            name for name in subfolders if name not in _LEFT_OUT_FOLDERS and not name.startswith("config-")
        ]
        parent = Path(folder).relative_to(root)
        found += [
            (parent / name).as_posix()
            for name in files
            if name.endswith(".py") and not name.startswith(_LEFT_OUT_FILES)
        ]
    return sorted(found)


def _is_held_out(relative_path: str) -> bool:
    return int.from_bytes(hashlib.sha256(relative_path.encode()).digest()[:8], "big") % _HELD_OUT_ONE_IN == 0
