"""Activation checkpointing in PyTorch: a block's activations are computed again. Its twin is recomputing_tf.py.

Between the passes only a block's input is kept (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost").
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """block(x), whose activations the backward pass computes once more; statistics are updated by the first pass."""

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), statistics_kept(block)

    if (
        torch.compiler.is_compiling()
    ):  # the compiler computes again what has no effect besides, and takes no contexts
        return checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
    # No dropout anywhere, so no state of random numbers to bring back.
    return checkpoint(block, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


@contextmanager
def statistics_kept(block: nn.Module) -> Iterator[None]:
    """BatchNorm normalises with its batch as ever, but leaves its running statistics as they are."""
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:  # not track_running_stats: autograd would miss the statistics among what it has saved
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
