"""Samples cut from an array of tokens: windows of a stream, or one document a sample with padding.

In both, a sample's targets are its inputs moved on by one token.
"""

import hashlib
from functools import cached_property
from typing import Any

import numpy as np

from data.errors import DataError


class StreamWindows:
    """Consecutive windows: sample i reads tokens i * T to i * T + T, the last one only as a target.

    tokens: [number of tokens], any unsigned integers. context: T. origin: what to name in an error.
    """

    resident = False

    def __init__(self, tokens: np.ndarray, context: int, origin: str):
        if len(tokens) < context + 1:
            raise DataError(
                f"{origin}: found {len(tokens)} tokens, expected at least model.context + 1 = {context + 1}"
            )
        self.num_samples = (len(tokens) - 1) // context
        self._tokens = tokens
        self._context = context

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(np.ascontiguousarray(self._tokens).data).hexdigest()

    def batch(self, ids: np.ndarray, epochs: np.ndarray) -> dict[str, Any]:
        inputs, targets = shifted(all_windows(self._tokens, self._context)[ids])
        return {"inputs": inputs, "targets": targets, "replaced": 0}

    def target_count(self, ids: np.ndarray) -> int:
        return len(ids) * self._context


class PaddedDocuments:
    """One document a sample, cut to T + 1 tokens: inputs end in zeros and targets in -1 where it is shorter.

    tokens: [number of tokens]; bounds: int64 [number of documents, 2], start and end of each. context: T.
    Documents of a single token have nothing to predict and are left out.
    """

    resident = False

    def __init__(self, tokens: np.ndarray, bounds: np.ndarray, context: int, origin: str):
        bounds = bounds[bounds[:, 1] - bounds[:, 0] >= 2]
        if not len(bounds):
            raise DataError(f"{origin}: found no document of at least 2 tokens, expected some")
        self.num_samples = len(bounds)
        self._tokens = tokens
        self._context = context
        self._starts = bounds[:, 0]
        self._lengths = np.minimum(bounds[:, 1] - bounds[:, 0], context + 1)

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(np.ascontiguousarray(self._tokens).data)
        digest.update(np.stack([self._starts, self._lengths]).astype("<i8").tobytes())
        return digest.hexdigest()

    def batch(self, ids: np.ndarray, epochs: np.ndarray) -> dict[str, Any]:
        offsets = np.arange(self._context + 1)
        is_real = offsets < self._lengths[ids, None]
        positions = self._starts[ids, None] + offsets
        tokens = self._tokens[np.where(is_real, positions, 0)].astype(np.int32)
        inputs = np.where(is_real[:, 1:], tokens[:, :-1], 0).astype(np.int32)
        targets = np.where(is_real[:, 1:], tokens[:, 1:], -1).astype(np.int32)
        return {"inputs": inputs, "targets": targets, "replaced": 0}

    def target_count(self, ids: np.ndarray) -> int:
        return int((self._lengths[ids] - 1).sum())


def all_windows(tokens: np.ndarray, context: int) -> np.ndarray:
    """A view of a stream of tokens, [number of windows, T + 1], at a stride of T; none if it is too short."""
    if len(tokens) <= context:
        return np.empty((0, context + 1), tokens.dtype)
    return np.lib.stride_tricks.sliding_window_view(tokens, context + 1)[::context]


def shifted(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, int32 [n, T] each and contiguous, of windows [n, T + 1] that were copied already.

    Widened only after they were gathered and cut: the few bytes of narrow ids stay in the cache.
    """
    return windows[:, :-1].astype(np.int32, order="C"), windows[:, 1:].astype(np.int32, order="C")


def paragraph_bounds(text: np.ndarray) -> np.ndarray:
    """Start and end of each paragraph, what stands between blank lines: int64 [number of paragraphs, 2].

    text: uint8 [number of bytes]. A paragraph keeps the newline that ends it.
    """
    newline = text == ord("\n")
    blank = newline.copy()
    blank[1:] &= newline[:-1]  # a newline right after a newline, or at the start, ends an empty line
    edges = np.flatnonzero(np.diff(blank, prepend=True, append=True))
    return edges.reshape(-1, 2)


def open_layout(
    text: np.ndarray, bounds: np.ndarray, layout: str, context: int, vocabulary: int, origin: str
) -> StreamWindows | PaddedDocuments:
    """The bytes `text` as samples of the recipe's data.layout; `bounds` are its documents, if padded."""
    if vocabulary < 256:
        raise DataError(f"model.vocabulary: found {vocabulary}, but bytes need at least 256")
    if layout == "stream":
        return StreamWindows(text, context, origin)
    if layout == "padded":
        return PaddedDocuments(text, bounds, context, origin)
    raise DataError(f"data.layout: found {layout!r}, expected stream or padded")
