"""GPT-2's byte-level byte-pair encoding, from its vocab.json and merges.txt (Radford et al. 2019)."""

import functools
import json
import re
import sys
import unicodedata
from itertools import pairwise
from pathlib import Path

import numpy as np

from data.errors import DataError

_WHITE_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


class BytePairEncoding:
    """Text to token ids, as GPT-2's own encoder makes them; special tokens are not recognised in the text."""

    def __init__(self, folder: Path):
        """Raises DataError where vocab.json or merges.txt in `folder` is missing or not GPT-2's."""
        vocabulary_path, merges_path = folder / "vocab.json", folder / "merges.txt"
        try:
            self._ids: dict[str, int] = json.loads(vocabulary_path.read_text(encoding="utf-8"))
            lines = merges_path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise DataError(
                f"{error.filename}: {error.strerror}, expected GPT-2's; check --vocabulary"
            ) from error
        except ValueError as error:
            raise DataError(f"{folder}: vocab.json or merges.txt is not GPT-2's ({error})") from error
        if not isinstance(self._ids, dict):
            raise DataError(f"{vocabulary_path}: expected a JSON object of tokens and ids, as GPT-2's")
        self._letters = _byte_letters()
        missing = set(self._letters).difference(self._ids)
        if missing:
            raise DataError(
                f"{vocabulary_path}: {len(missing)} of the 256 bytes are missing, expected GPT-2's"
            )
        if not all(isinstance(number, int) and 0 <= number < 2**16 for number in self._ids.values()):
            raise DataError(f"{vocabulary_path}: found ids that do not fit uint16, expected 0 to 65535")
        pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        if any(len(pair) != 2 for pair in pairs):
            raise DataError(f"{merges_path}: found a line without two parts, expected GPT-2's merges.txt")
        if any("".join(pair) not in self._ids for pair in pairs):
            raise DataError(
                f"{merges_path}: found a pair that is not in vocab.json, expected both of one model"
            )
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self._word_ids = functools.lru_cache(maxsize=2**16)(self._encode_word)

    def encode(self, text: str) -> np.ndarray:
        """Token ids of the text: uint16 [number of tokens]."""
        ids: list[int] = []
        for word in word_pattern().findall(text):
            ids += self._word_ids(word)
        return np.array(ids, np.uint16)

    def _encode_word(self, word: str) -> list[int]:
        """Merge the pair that was learnt first, again and again, until no learnt pair is left."""
        parts = [self._letters[byte] for byte in word.encode("utf-8")]
        while len(parts) > 1:
            pair = min(pairwise(parts), key=lambda pair: self._ranks.get(pair, sys.maxsize))
            if pair not in self._ranks:
                break
            merged: list[str] = []
            for part in parts:
                if merged and (merged[-1], part) == pair:
                    merged[-1] += part
                else:
                    merged.append(part)
            parts = merged
        return [self._ids[part] for part in parts]


@functools.cache
def word_pattern() -> re.Pattern[str]:
    r"""GPT-2's pattern for words, `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+|
    ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.

    Python's `re` has no \p{L} (letters) and \p{N} (numbers): they are written out from its Unicode tables,
    which may be older or newer than GPT-2's by a few rare characters.
    """
    letters, numbers = _character_class("L"), _character_class("N")
    return re.compile(
        rf"'s|'t|'re|'ve|'m|'ll|'d| ?[{letters}]+| ?[{numbers}]+| ?[^{_WHITE_SPACE}{letters}{numbers}]+"
        rf"|[{_WHITE_SPACE}]+(?![^{_WHITE_SPACE}])|[{_WHITE_SPACE}]+"
    )


def _character_class(category: str) -> str:
    """The characters of a general category ("L", "N") as ranges for a regular expression's [ ]."""
    members = (unicodedata.category(chr(code))[0] == category for code in range(sys.maxunicode + 1))
    edges = np.flatnonzero(np.diff(np.fromiter(members, bool), prepend=False, append=False))
    return "".join(f"\\U{first:08x}-\\U{last - 1:08x}" for first, last in edges.reshape(-1, 2).tolist())


def _byte_letters() -> list[str]:
    """The printable character that stands for each byte in GPT-2's files: itself, or one from 256 on."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]
