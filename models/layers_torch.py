"""Activations, and attention as a formula, which is one kernel in PyTorch. Its twin is layers_tf.py."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Activation] = {
    "relu": partial(F.relu, inplace=True),
    "gelu": partial(F.gelu, approximate="tanh"),
}
"""Of a ResNet, by the name that its recipe has."""


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal scaled dot-product attention; query, key, value and result [n, heads, T, head_width].

    The softmax is computed in float32, or in the query's type if that is wider.
    """
    length, head_width = query.shape[-2:]
    hidden = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(diagonal=1)
    scores = (query * head_width**-0.5) @ key.transpose(-2, -1)  # cheaper than scaling the T x T scores
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).masked_fill(hidden, -torch.inf)
    return scores.softmax(dim=-1).to(value.dtype) @ value
