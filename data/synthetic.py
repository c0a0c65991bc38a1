"""Random samples of the right shape: what a step costs when the data costs nothing.

A sample is a window into one buffer of noise, so that a batch of any size is ready at once. Training uses one
batch, that of step 0, for the whole run, and it may stay on the device.
"""

import hashlib
from functools import cached_property
from typing import Any

import numpy as np

_NUM_SAMPLES = {"train": 65_536, "validation": 1_024}


class SyntheticImages:
    """Uniform noise, uint8 [S, S, 3], under uniform labels."""

    resident = True

    def __init__(self, split: str, image_size: int, num_classes: int, seed: int):
        self.num_samples = _NUM_SAMPLES[split]
        self._shape = (image_size, image_size, 3)
        random = _generator(seed, split)
        self._noise = random.integers(0, 256, np.prod(self._shape) + self.num_samples - 1, dtype=np.uint8)
        self._labels = random.integers(0, num_classes, self.num_samples, dtype=np.int32)

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(self._noise.tobytes() + self._labels.astype("<i4").tobytes()).hexdigest()

    def batch(self, ids: np.ndarray, epochs: np.ndarray) -> dict[str, Any]:
        images = np.lib.stride_tricks.sliding_window_view(self._noise, int(np.prod(self._shape)))[ids]
        return {"inputs": images.reshape(-1, *self._shape), "targets": self._labels[ids], "replaced": 0}

    def target_count(self, ids: np.ndarray) -> int:
        return len(ids)


class SyntheticTokens:
    """Uniformly random token ids, int32 [T]."""

    resident = True

    def __init__(self, split: str, context: int, vocabulary: int, seed: int):
        self.num_samples = _NUM_SAMPLES[split]
        self._context = context
        self._noise = _generator(seed, split).integers(
            0, vocabulary, context + self.num_samples, dtype=np.int32
        )

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(self._noise.astype("<i4").tobytes()).hexdigest()

    def batch(self, ids: np.ndarray, epochs: np.ndarray) -> dict[str, Any]:
        tokens = np.lib.stride_tricks.sliding_window_view(self._noise, self._context + 1)[ids]
        return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "replaced": 0}

    def target_count(self, ids: np.ndarray) -> int:
        return len(ids) * self._context


def _generator(seed: int, split: str) -> np.random.Generator:
    key = np.array([seed % 2**64, list(_NUM_SAMPLES).index(split)], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
