"""Activation checkpointing in TensorFlow: a block's activations are computed again. Its twin is recomputing_torch.py.

Between the passes only a block's input is kept (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost").
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import tensorflow as tf

_is_again: ContextVar[bool] = ContextVar("is_again", default=False)


def recomputed(block: Callable[..., tf.Tensor], x: tf.Tensor, **constants: Any) -> tf.Tensor:
    """block(x), whose activations the backward pass computes once more; statistics are updated by the first pass.

    constants: what else the block takes; no gradient flows to them.
    """
    passes = 0

    def one_pass(x: tf.Tensor) -> tf.Tensor:
        nonlocal passes
        passes += 1
        token = _is_again.set(passes > 1)
        try:
            return block(x, **constants)
        finally:
            _is_again.reset(token)

    return tf.recompute_grad(one_pass)(x)


def updates_statistics() -> bool:
    """Whether a BatchNorm that is called now is to update its running statistics: not in a second pass."""
    return not _is_again.get()
