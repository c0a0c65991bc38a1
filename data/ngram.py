"""An interpolated byte n-gram model (Witten-Bell): the baseline that a language model of bytes must beat."""

import math

import numpy as np


def held_out_nats_per_byte(train: bytes | np.ndarray, held_out: bytes | np.ndarray, order: int) -> float:
    """Mean -ln P of the held-out bytes under an n-gram model, n = order (1 to 8), counted on the training
    bytes.

    train, held_out: bytes or uint8 [number of bytes]. Natural logarithms. Witten and Bell 1991, method C,
    where h is the context of k - 1 bytes, c(.) counts in `train` and T(h) is the number of different bytes
    seen after h:
        P_k(x | h) = (c(hx) + T(h) P_{k-1}(x | h without its first byte)) / (c(h) + T(h)),  P_0 = 1 / 256
    The first order - 1 held-out bytes lack a full context and are not scored.
    """
    if not 1 <= order <= 8:
        raise ValueError(f"order: found {order}, expected 1 to 8")
    train_bytes, scored = (np.frombuffer(part, np.uint8) for part in (train, held_out))
    if min(len(train_bytes), len(scored)) < order:
        raise ValueError(f"order: found {order}, expected no more than the length of either text")
    probability = np.full(len(scored) - order + 1, 1 / 256)
    for length in range(1, order + 1):
        grams, counts = np.unique(_grams(train_bytes, length), return_counts=True)
        contexts, first = np.unique(grams >> 8, return_index=True)
        context_counts = np.add.reduceat(counts, first)
        continuations = np.diff(np.append(first, len(grams)))

        wanted = _grams(scored, length)[order - length :]
        gram_count = _look_up(wanted, grams, counts)
        context_count = _look_up(wanted >> 8, contexts, context_counts)
        kinds = _look_up(wanted >> 8, contexts, continuations)
        seen = context_count > 0
        mixed = (gram_count + kinds * probability) / np.maximum(context_count + kinds, 1)
        probability = np.where(seen, mixed, probability)
    return -math.fsum(np.log(probability)) / len(probability)


def _grams(text: np.ndarray, length: int) -> np.ndarray:
    """All runs of `length` bytes as numbers, the last byte lowest: [len(text) - length + 1]."""
    size = len(text) - length + 1
    kind = np.uint32 if length <= 4 else np.uint64  # the smaller type sorts twice as fast
    grams: np.ndarray = np.zeros(size, kind)
    for offset in range(length):
        grams = grams << 8 | text[offset : offset + size]
    return grams


def _look_up(wanted: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The value of each wanted key, 0 where it is not among the sorted keys."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
