"""Both frameworks' losses against NumPy: smoothing, ignored targets, sums that add up, and their type."""

import numpy as np
import pytest
import tensorflow as tf
import torch

from models import losses_tf, losses_torch

NUMPY_LOSSES = {
    "torch": lambda logits, targets, smoothing: losses_torch.cross_entropy_sum(
        torch.from_numpy(logits), torch.from_numpy(targets), smoothing
    ).numpy(),
    "tf": lambda logits, targets, smoothing: losses_tf.cross_entropy_sum(
        tf.constant(logits), tf.constant(targets), smoothing
    ).numpy(),
}
NUMPY_COUNTS = {
    "torch": lambda logits, targets: losses_torch.correct_count(
        torch.from_numpy(logits), torch.from_numpy(targets)
    ).numpy(),
    "tf": lambda logits, targets: losses_tf.correct_count(tf.constant(logits), tf.constant(targets)).numpy(),
}


def reference_loss(logits, targets, smoothing):
    """Cross-entropy with a mixture of the one-hot and the uniform distribution, term by term."""
    total = 0.0
    for row, target in zip(logits.reshape(-1, logits.shape[-1]), targets.ravel(), strict=True):
        if target != -1:
            log_probabilities = row - np.log(np.exp(row).sum())
            total -= (1 - smoothing) * log_probabilities[target] + smoothing * log_probabilities.mean()
    return total


def sample(shape=(4, 6), classes=11):
    rng = np.random.default_rng(0)
    targets = rng.integers(0, classes, shape).astype(np.int32)
    targets[0] = -1
    targets[1, 2:] = -1
    return 3 * rng.standard_normal((*shape, classes)), targets


@pytest.mark.parametrize("framework", NUMPY_LOSSES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_sum_over_counting_targets(framework, smoothing):
    logits, targets = sample()
    loss = NUMPY_LOSSES[framework](logits, targets, smoothing)
    assert loss.dtype == np.float64
    assert loss.shape == ()
    np.testing.assert_allclose(loss, reference_loss(logits, targets, smoothing), rtol=1e-14)
    halves = [
        NUMPY_LOSSES[framework](logits[half], targets[half], smoothing) for half in np.split(np.arange(4), 2)
    ]
    np.testing.assert_allclose(loss, sum(halves), rtol=1e-14)


@pytest.mark.parametrize("framework", NUMPY_LOSSES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_nothing_but_padding_is_a_loss_of_zero(framework, smoothing):
    logits, targets = sample()
    assert NUMPY_LOSSES[framework](logits, np.full_like(targets, -1), smoothing) == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_half_precision_logits_are_summed_in_float32(smoothing):
    logits, targets = sample()
    ours = losses_torch.cross_entropy_sum(
        torch.from_numpy(logits).bfloat16(), torch.from_numpy(targets), smoothing
    )
    theirs = losses_tf.cross_entropy_sum(tf.cast(logits, tf.bfloat16), tf.constant(targets), smoothing)
    assert ours.dtype == torch.float32
    assert theirs.dtype == tf.float32
    np.testing.assert_allclose(theirs.numpy(), ours.numpy(), rtol=1e-6)


@pytest.mark.parametrize("framework", NUMPY_COUNTS)
def test_correct_targets_are_counted_without_padding(framework):
    logits, _ = sample()
    best = logits.argmax(axis=-1).astype(np.int32)
    assert NUMPY_COUNTS[framework](logits, best) == best.size
    best[0] = -1
    best[1, 0] = (best[1, 0] + 1) % 11
    count = NUMPY_COUNTS[framework](logits, best)
    assert count == best.size - 6 - 1
    assert count.dtype == np.int64
