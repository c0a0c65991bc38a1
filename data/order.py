"""Which samples make up which step: a pure function of the seed and the step, whatever the worker count.

Each epoch is a permutation of the samples, computed point by point with a Feistel network: nothing is stored,
so ten million samples cost no more memory than ten, and a step in the middle of a run is as quick as the
first. The permutation is written out here, rather than taken from a library, because a resumed run needs the
very same order years and versions later. (Grain's own index shuffle is the same kind of cipher, one call a
sample: 13 ms for a batch of 2,048, where this takes under 1 ms, and importing it costs 0.2 s.)
"""

import hashlib

import numpy as np

from data.errors import DataError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, splitmix64's increment
_ROUNDS = 8
_BLOCK = 4096  # positions computed at once: small batches share the cost of calling NumPy


class SampleOrder:
    """The order of samples in a run: step s (from 0) takes positions s * B to s * B + B - 1 of an endless
    stream in which each epoch is a fresh permutation of the `num_samples` samples.

    num_samples: samples in the source. global_batch: B, samples a step over all workers. seed: any integer.
    """

    def __init__(self, num_samples: int, global_batch: int, seed: int):
        if num_samples < 1:
            raise DataError(f"data: found {num_samples} samples, expected at least one; check data.path")
        if global_batch < 1:
            raise DataError(f"data.global_batch: found {global_batch}, expected at least 1")
        self.num_samples = num_samples
        self.global_batch = global_batch
        self.seed = seed
        self._steps_a_block = max(1, _BLOCK // global_batch)
        self._block: tuple[int, np.ndarray, np.ndarray] | None = None

    def ids(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample ids and epochs of the global batch of `step` (from 0): two int64 arrays [B]."""
        number, step_in_block = divmod(step, self._steps_a_block)
        block = self._block  # read and replaced as a whole: several threads may ask
        if block is None or block[0] != number:
            block = self._block = (number, *self._compute_block(number))
        rows = slice(step_in_block * self.global_batch, (step_in_block + 1) * self.global_batch)
        return block[1][rows], block[2][rows]

    def _compute_block(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        length = self._steps_a_block * self.global_batch
        positions = np.arange(number * length, (number + 1) * length, dtype=np.int64)
        epochs, index = np.divmod(positions, self.num_samples)
        ids = _permute(index, self.num_samples, _epoch_keys(self.seed, epochs))
        for array in (ids, epochs):
            array.setflags(write=False)  # they are handed out again and again
        return ids, epochs

    def digest(self, step: int) -> str:
        """16 hex digits of the SHA-256 of the global batch's sample ids, as little-endian 64-bit integers."""
        return hashlib.sha256(self.ids(step)[0].astype("<i8").tobytes()).hexdigest()[:16]


def micro_batch_positions(global_batch: int, workers: int, accumulation: int, rank: int) -> np.ndarray:
    """Where the micro-batches of worker `rank` lie in the global batch: int64 [A, B / (N * A)].

    Of the M = N * A micro-batches, micro-batch j has elements j, j + M, j + 2M, …, and worker r of N takes
    micro-batches r, r + N, …: at equal M the micro-batches are the same, however many workers share them.
    Raises DataError where B is not divisible by M.
    """
    micro_batches = workers * accumulation
    if global_batch % micro_batches:
        raise DataError(
            f"data.global_batch: found {global_batch}, expected a multiple of workers x accumulation"
            f" = {workers} x {accumulation} = {micro_batches}"
        )
    first = rank + workers * np.arange(accumulation, dtype=np.int64)
    return first[:, None] + micro_batches * np.arange(global_batch // micro_batches, dtype=np.int64)


def _mix(words: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele, Lea and Flood 2014): each input bit changes half of the output bits."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _epoch_keys(seed: int, epochs: np.ndarray) -> np.ndarray:
    """One 64-bit key an epoch. Mixed twice, so that (seed 1, epoch 0) and (seed 0, epoch 1) are unrelated."""
    seed_word = _mix(np.array([seed % 2**64], np.uint64) + _GOLDEN)
    return _mix(seed_word + (epochs.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def _permute(index: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Map each index in [0, size) to its place in the permutation of its key (int64, same shape).

    A Feistel network permutes the smallest power of two that holds `size`; what falls outside is sent through
    again until it falls inside ("cycle walking": Black and Rogaway 2002), so a bijection remains one.
    """
    bits = max(6, (size - 1).bit_length())  # fewer would favour some orders of a handful of samples
    words = _feistel(index.astype(np.uint64), bits, keys)
    outside = np.flatnonzero(words >= np.uint64(size))
    while outside.size:
        words[outside] = _feistel(words[outside], bits, keys[outside])
        outside = outside[words[outside] >= np.uint64(size)]
    return words.astype(np.int64)


def _feistel(words: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    """An unbalanced Feistel network on `bits` bits: the halves take turns at being scrambled by the other."""
    low_bits, high_bits = np.uint64(bits // 2), np.uint64(bits - bits // 2)
    low_mask, high_mask = (np.uint64(2 ** int(width) - 1) for width in (low_bits, high_bits))
    low, high = words & low_mask, words >> low_bits
    for number in range(0, _ROUNDS, 2):
        low = low ^ (_round(high, number, keys) & low_mask)
        high = high ^ (_round(low, number + 1, keys) & high_mask)
    return high << low_bits | low


def _round(half: np.ndarray, number: int, keys: np.ndarray) -> np.ndarray:
    """A different pseudo-random function in each round: its number stands far above the half's bits."""
    return _mix((half | np.uint64(number << 60)) * _GOLDEN ^ keys)
