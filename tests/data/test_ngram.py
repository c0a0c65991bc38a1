import math
import random
from collections import Counter

import pytest

from data.ngram import held_out_nats_per_byte


def by_the_book(train: bytes, held_out: bytes, order: int) -> float:
    """Witten-Bell interpolation, written out one byte at a time."""
    grams: Counter = Counter()
    for length in range(1, order + 1):
        grams.update(train[start : start + length] for start in range(len(train) - length + 1))
    contexts: Counter = Counter()
    kinds: Counter = Counter()
    for gram, count in grams.items():
        contexts[gram[:-1]] += count
        kinds[gram[:-1]] += 1

    def probability(context: bytes, byte: bytes) -> float:
        below = probability(context[1:], byte) if context else 1 / 256
        if not contexts[context]:
            return below
        return (grams[context + byte] + kinds[context] * below) / (contexts[context] + kinds[context])

    logs = [
        math.log(probability(held_out[place - order + 1 : place], held_out[place : place + 1]))
        for place in range(order - 1, len(held_out))
    ]
    return -sum(logs) / len(logs)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 8])
def test_against_the_formula(order):
    chance = random.Random(order)
    train = bytes(chance.choices(b"abcd\xff\x00", weights=(9, 5, 2, 1, 1, 1), k=2000))
    held_out = bytes(chance.choices(b"abcde", k=300))  # e was never seen
    assert held_out_nats_per_byte(train, held_out, order) == pytest.approx(
        by_the_book(train, held_out, order), rel=1e-12
    )


def test_text_that_repeats_costs_next_to_nothing():
    assert held_out_nats_per_byte(b"abc" * 5000, b"abc" * 100, 4) < 0.01


def test_an_order_without_counts_is_refused():
    for order in (0, 9):
        with pytest.raises(ValueError, match=rf"^order: found {order}, expected 1 to 8$"):
            held_out_nats_per_byte(b"a" * 20, b"a" * 20, order)
    with pytest.raises(ValueError, match=r"^order: found 3, expected no more than the length"):
        held_out_nats_per_byte(b"aaaa", b"aa", 3)
