"""Token shards: .bin files of uint16 token ids, as nanoGPT and llm.c write them, read through the page cache.

nanoGPT's train.bin and val.bin are bare ids. llm.c's shards (fineweb_train_000001.bin, …) begin with a header
of 256 int32: magic number, version, number of tokens.
"""

import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import DataError
from data.windows import all_windows, shifted

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
        self._paths = _shard_paths(Path(path), split)
        self._context = context
        self._vocabulary = vocabulary
        shards = self._shards
        for shard_path, shard in zip(self._paths, shards, strict=True):
            self._check_ids(shard[:_SAMPLE_TOKENS], shard_path)
        self._first_ids = np.cumsum([0] + [max(0, (len(shard) - 1) // context) for shard in shards])
        self.num_samples = int(self._first_ids[-1])
        if not self.num_samples:
            raise DataError(
                f"{path}: no {split} shard has model.context + 1 = {context + 1} tokens; use a longer text"
            )

    @cached_property
    def _shards(self) -> list[np.ndarray]:
        return [_map_shard(path) for path in self._paths]

    @cached_property
    def _windows(self) -> list[np.ndarray]:
        return [all_windows(shard, self._context) for shard in self._shards]

    def __getstate__(self) -> dict[str, Any]:
        """Loader processes map the files themselves: a pickled map would carry all of their contents."""
        return {key: value for key, value in self.__dict__.items() if key not in ("_shards", "_windows")}

    @cached_property
    def fingerprint(self) -> str:
        """Of each shard its length and sixteen blocks, which is all of it below a million tokens."""
        digest = hashlib.sha256()
        for shard in self._shards:
            digest.update(len(shard).to_bytes(8, "little"))
            for block in np.array_split(shard, 16):
                digest.update(block[:_SAMPLE_TOKENS].tobytes())
        return digest.hexdigest()

    def batch(self, ids: np.ndarray, epochs: np.ndarray) -> dict[str, Any]:
        shard_of = np.searchsorted(self._first_ids, ids, side="right") - 1
        windows = self._gather(shard_of, ids - self._first_ids[shard_of])
        if int(windows.max(initial=0)) >= self._vocabulary:
            row = int(windows.max(axis=1).argmax())
            self._check_ids(windows[row], self._paths[shard_of[row]])
        inputs, targets = shifted(windows)
        return {"inputs": inputs, "targets": targets, "replaced": 0}

    def _gather(self, shard_of: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Window places[k] of shard shard_of[k] for each k, copied: uint16 [n, T + 1]."""
        if len(shard_of) and (shard_of == shard_of[0]).all():
            return self._windows[shard_of[0]][places]
        chosen = np.empty((len(places), self._context + 1), np.uint16)
        for row, shard, place in zip(chosen, shard_of.tolist(), places.tolist(), strict=True):
            row[:] = self._windows[shard][place]
        return chosen

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


def _map_shard(path: Path) -> np.ndarray:
    """The tokens of one shard, uint16 [number of tokens], mapped and not read."""
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
        # Without memmap's own class, whose slices take five times as long.
        return np.asarray(np.memmap(path, "<u2", "r", offset=skipped))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; check data.path") from error
