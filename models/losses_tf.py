"""Loss and accuracy in TensorFlow, as sums, so that parts of a batch add up. Its twin is losses_torch.py."""

import tensorflow as tf

IGNORED_TARGET = -1  # padding tokens, and the samples that fill up the last batch of an evaluation


def cross_entropy_sum(logits: tf.Tensor, targets: tf.Tensor, label_smoothing: float) -> tf.Tensor:
    """Sum of the cross-entropies in nats over all targets but those of -1; a scalar.

    logits: [..., classes]; targets: whole numbers [...]. Computed in float32, or in the logits' type if that
    is wider. Smoothing mixes the true distribution with a uniform one over all classes (Szegedy et al. 2015,
    section 7).
    """
    classes = logits.shape[-1]
    logits = tf.cast(
        tf.reshape(logits, [-1, classes]), tf.float64 if logits.dtype == tf.float64 else tf.float32
    )
    targets = tf.reshape(targets, [-1])
    if label_smoothing == 0:
        # No one-hot vectors here: for a vocabulary of 50,257 they are as large as the logits.
        labels = tf.maximum(targets, 0)  # the kernel does not know targets to ignore
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    else:
        uniform = label_smoothing / classes
        labels = tf.one_hot(targets, classes, 1 - label_smoothing + uniform, uniform, dtype=logits.dtype)
        losses = tf.nn.softmax_cross_entropy_with_logits(labels, logits)
    return tf.reduce_sum(losses * tf.cast(targets != IGNORED_TARGET, losses.dtype))


def correct_count(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """How many targets have the largest logit: an integer scalar. A target of -1 never counts."""
    hits = tf.argmax(logits, axis=-1, output_type=tf.int64) == tf.cast(targets, tf.int64)
    return tf.reduce_sum(tf.cast(hits, tf.int64))
