"""Token shards: .bin files of uint16 token ids, as nanoGPT and llm.c write them, read through the page cache.

They are read, not mapped: of a mapped file that is cut short, or lies on a disk that fails, a process dies by SIGBUS.

nanoGPT's train.bin and val.bin are bare ids. llm.c's shards (fineweb_train_000001.bin, …) begin with a header
of 256 int32: magic number, version, number of tokens.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import DataError
from data.windows import shifted

_MAGIC = 20240520  # llm.c, dataloader.h
_HEADER_BYTES = 256 * 4
_SAMPLE_TOKENS = 2**16  # read of each shard to check it, and of each sixteenth of it for the fingerprint


class TokenShards:
    """Windows of T + 1 tokens at a stride of T; none spans two shards.

    The shards of a split are the files in the folder `path` named *train*.bin or *val*.bin.
    """

    resident = False

    def __init__(self, path: str, split: str, layout: str, context: int, vocabulary: int):
        if layout != "stream":
            raise DataError(f"data.layout: found {layout!r}, but data.source = 'tokens' has only stream")
        self._context = context
        self._vocabulary = vocabulary
        self._shards = [_open_shard(each) for each in _shard_paths(Path(path), split)]
        for shard in self._shards:
            self._check_ids(shard.read(0, min(_SAMPLE_TOKENS, shard.length)), shard.path)
        self._first_ids = np.cumsum([0] + [max(0, (shard.length - 1) // context) for shard in self._shards])
        self.num_samples = int(self._first_ids[-1])
        if not self.num_samples:
            raise DataError(
                f"{path}: no {split} shard has model.context + 1 = {context + 1} tokens; use a longer text"
            )

    @cached_property
    def fingerprint(self) -> str:
        """Of each shard its length and sixteen blocks, which is all of it below a million tokens."""
        digest = hashlib.sha256()
        for shard in self._shards:
            digest.update(shard.length.to_bytes(8, "little"))
            for start, length in _parts(shard.length, 16):
                digest.update(shard.read(start, min(length, _SAMPLE_TOKENS)).tobytes())
        return digest.hexdigest()

    def batch(self, ids: np.ndarray, epochs: np.ndarray) -> dict[str, Any]:
        shard_of = np.searchsorted(self._first_ids, ids, side="right") - 1
        starts = (ids - self._first_ids[shard_of]) * self._context
        windows = np.empty((len(ids), self._context + 1), "<u2")
        for index in np.unique(shard_of):
            rows = np.flatnonzero(shard_of == index)
            self._shards[index].read_into((windows[row] for row in rows), starts[rows])
        if int(windows.max(initial=0)) >= self._vocabulary:
            row = int(windows.max(axis=1).argmax())
            self._check_ids(windows[row], self._shards[shard_of[row]].path)
        inputs, targets = shifted(windows)
        return {"inputs": inputs, "targets": targets, "replaced": 0}

    def target_count(self, ids: np.ndarray) -> int:
        return len(ids) * self._context

    def _check_ids(self, tokens: np.ndarray, path: Path) -> None:
        largest = int(tokens.max(initial=0))
        if largest >= self._vocabulary:
            raise DataError(
                f"{path}: found token id {largest}, expected ids below model.vocabulary = {self._vocabulary};"
                " prepare the shards with the model's vocabulary, or enlarge it"
            )


def _shard_paths(folder: Path, split: str) -> list[Path]:
    pattern = "*train*.bin" if split == "train" else "*val*.bin"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, expected one with {pattern}; check data.path")
    paths = sorted(folder.glob(pattern), key=lambda path: os.fsencode(path.name))
    if not paths:
        raise DataError(f"{folder}: found no {pattern}; make them with python -m data.prepare text")
    return paths


@dataclass(frozen=True)
class _Shard:
    """One file: `length` tokens after `skipped` bytes."""

    path: Path
    skipped: int
    length: int

    def read(self, start: int, count: int) -> np.ndarray:
        """uint16 [count], from token `start` on. Raises DataError."""
        found = np.empty(count, "<u2")
        self.read_into([found], [start])
        return found

    def read_into(self, arrays: Iterable[np.ndarray], starts: Iterable[int]) -> None:
        """Fill each array (uint16 [n]) with the tokens from its start on. Raises DataError."""
        try:
            with open(self.path, "rb", buffering=0) as file:
                for array, start in zip(arrays, starts, strict=True):
                    if os.preadv(file.fileno(), [array.data], self.skipped + 2 * int(start)) != array.nbytes:
                        raise DataError(
                            f"{self.path}: ends before token {start + len(array)}, but had {self.length} when the run "
                            "started; restore the shard"
                        )
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror}; check data.path") from error


def _open_shard(path: Path) -> _Shard:
    try:
        size = path.stat().st_size
        header = np.fromfile(path, "<i4", count=3)
        skipped = 0
        if len(header) == 3 and header[0] == _MAGIC:
            skipped, expected = _HEADER_BYTES, _HEADER_BYTES + 2 * int(header[2])
            if header[1] != 1 or size != expected:
                raise DataError(
                    f"{path}: found version {header[1]} and {size} bytes, expected version 1"
                    f" and {expected} bytes as its header says; fetch the shard again"
                )
        if size % 2 or size <= skipped:
            raise DataError(f"{path}: found {size} bytes, expected uint16 token ids; prepare the shard again")
        return _Shard(path, skipped, (size - skipped) // 2)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; check data.path") from error


def _parts(length: int, count: int) -> list[tuple[int, int]]:
    """Start and length of `count` parts, the first ones longer by one where it does not divide."""
    each, over = divmod(length, count)
    return [(i * each + min(i, over), each + (i < over)) for i in range(count)]
