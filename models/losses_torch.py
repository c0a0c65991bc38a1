"""Loss and accuracy in PyTorch, as sums, so that parts of a batch add up. Its twin is losses_tf.py."""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED_TARGET = -1  # padding tokens, and the samples that fill up the last batch of an evaluation


def cross_entropy_sum(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Sum of the cross-entropies in nats over all targets but those of -1; a scalar.

    logits: [..., classes]; targets: whole numbers [...]. Computed in float32, or in the logits' type if that
    is wider. Smoothing mixes the true distribution with a uniform one over all classes (Szegedy et al. 2015,
    section 7).
    """
    classes = logits.shape[-1]
    return F.cross_entropy(
        logits.reshape(-1, classes).to(torch.promote_types(logits.dtype, torch.float32)),
        targets.reshape(-1).long(),
        reduction="sum",
        ignore_index=IGNORED_TARGET,
        label_smoothing=label_smoothing,
    )


def correct_count(logits: Tensor, targets: Tensor) -> Tensor:
    """How many targets have the largest logit: an integer scalar. A target of -1 never counts."""
    return (logits.argmax(dim=-1) == targets).sum()
