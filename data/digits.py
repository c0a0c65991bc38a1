"""The 1,797 handwritten digits that scikit-learn ships (from UCI's repository), as RGB images."""

import gzip
import hashlib
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import DataError

_HELD_OUT_EVERY = 5  # samples 4, 9, 14, …: 359 of 1,797
_SIDE = 8
_BRIGHTEST = 16


class Digits:
    """One split of the digits, bilinearly upsampled from 8x8 to `image_size`, grey as RGB, not augmented."""

    resident = False

    def __init__(self, split: str, image_size: int, num_classes: int):
        if num_classes < 10:
            raise DataError(
                f"model.num_classes: found {num_classes}, but digits have 10; expected at least 10"
            )
        pixels, labels = _read_digits()
        held_out = np.arange(len(labels)) % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1
        chosen = held_out if split == "validation" else ~held_out
        self.num_samples = int(chosen.sum())
        self._labels = labels[chosen].astype(np.int32)
        grey = _upsample(pixels[chosen], image_size)
        self._images = np.repeat(grey[..., None], 3, axis=-1)  # once, so that a batch is one plain gather

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(self._images.tobytes() + self._labels.astype("<i4").tobytes()).hexdigest()

    def batch(self, ids: np.ndarray, epochs: np.ndarray) -> dict[str, Any]:
        return {"inputs": self._images[ids], "targets": self._labels[ids], "replaced": 0}

    def target_count(self, ids: np.ndarray) -> int:
        return len(ids)


def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels float64 [1797, 8, 8] from 0 to 16 and labels [1797], from scikit-learn's own file.

    The file is read without importing scikit-learn, whose import alone takes seconds.
    """
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise DataError("data.source: digits needs scikit-learn's data file; run pip install scikit-learn")
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    try:
        with gzip.open(path) as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.float64)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); reinstall scikit-learn") from error
    return table[:, :-1].reshape(-1, _SIDE, _SIDE), table[:, -1]


def _upsample(pixels: np.ndarray, size: int) -> np.ndarray:
    """Bilinear resampling, pixel centres aligned: [n, 8, 8] in 0..16 to uint8 [n, size, size] in 0..255.

    In float64 and once for the whole split, so that rounding cannot depend on how a batch was cut.
    """
    centres = np.clip((np.arange(size) + 0.5) * _SIDE / size - 0.5, 0, _SIDE - 1)
    lower = np.minimum(centres.astype(int), _SIDE - 2)
    weights = np.zeros((size, _SIDE))
    weights[np.arange(size), lower] = 1 - (centres - lower)
    weights[np.arange(size), lower + 1] = centres - lower
    return np.rint(weights @ pixels @ weights.T * (255 / _BRIGHTEST)).astype(np.uint8)
