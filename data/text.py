"""Any text file, or folder of .txt files, as bytes; the last tenth of the bytes is held out."""

import os
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.windows import PaddedDocuments, StreamWindows, open_layout, paragraph_bounds


def open_text(
    path: str, split: str, layout: str, context: int, vocabulary: int
) -> StreamWindows | PaddedDocuments:
    """One split of the text at `path` as windows of a stream, or (padded) one document a sample.

    The documents of a folder are its files, those of a single file its paragraphs. One that straddles the
    beginning of the held-out tail is for training.
    """
    text, bounds = _read(Path(path), with_documents=layout == "padded")
    tail = held_out_start(len(text))
    if layout == "padded":
        is_held_out = bounds[:, 0] >= tail
        return open_layout(
            text, bounds[is_held_out == (split == "validation")], layout, context, vocabulary, path
        )
    part = text[tail:] if split == "validation" else text[:tail]
    return open_layout(part, bounds, layout, context, vocabulary, f"{path} ({split} split)")


def held_out_start(length: int) -> int:
    """Where the held-out tail of a text of `length` bytes or characters begins."""
    return length - length // 10


def _read(path: Path, with_documents: bool) -> tuple[np.ndarray, np.ndarray]:
    """The bytes at `path`, uint8 [number of bytes], and the bounds of the documents in them, int64 [., 2]."""
    try:
        if path.is_dir():
            files = sorted(path.glob("*.txt"), key=lambda file: os.fsencode(file.name))
            if not files:
                raise DataError(f"{path}: found no *.txt files, expected at least one; check data.path")
            texts = [np.fromfile(file, np.uint8) for file in files]
            ends = np.cumsum([len(text) for text in texts])
            text, bounds = np.concatenate(texts), np.stack([np.append(0, ends[:-1]), ends], axis=1)
        else:
            text = np.fromfile(path, np.uint8)
            bounds = paragraph_bounds(text) if with_documents else np.empty((0, 2), np.int64)
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}, expected a text file or a folder of *.txt; check data.path"
        ) from error
    if not len(text):
        raise DataError(f"{path}: found 0 bytes, expected text; check data.path")
    return text, bounds
