"""GPT-2 in PyTorch. Its twin is transformer_tf.py.

Pre-norm blocks, learned positions, tanh GELU, the head tied to the token embedding, no dropout (Radford et
al. 2019).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from models.layers_torch import attention
from models.recomputing_torch import recomputed
from models.specs import GptSpec

LAYER_NORM_EPS = 1e-5


class Attention(nn.Module):
    """Causal self-attention over several heads. Shapes: [n, T, width] -> [n, T, width]."""

    def __init__(self, spec: GptSpec, *, flash_attention: bool) -> None:
        super().__init__()
        self.num_heads = spec.num_heads
        self.flash_attention = flash_attention
        self.c_attn = nn.Linear(spec.width, 3 * spec.width)  # queries, keys and values in one product
        self.c_proj = nn.Linear(spec.width, spec.width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        qkv = self.c_attn(x).view(n, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()  # each [n, heads, T, width / heads]
        if self.flash_attention:  # one kernel, which keeps no scores
            attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            attended = attention(query, key, value)
        return self.c_proj(attended.transpose(1, 2).reshape(n, length, width))


class MLP(nn.Module):
    """Two linear layers with a tanh GELU between. Shapes: [n, T, width] -> [n, T, width]."""

    def __init__(self, spec: GptSpec) -> None:
        super().__init__()
        self.c_fc = nn.Linear(spec.width, 4 * spec.width)
        self.c_proj = nn.Linear(4 * spec.width, spec.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    """Attention, then MLP, each on a normalised copy of the residual stream and added back to it.

    The stream has the type of the parameters in every precision.
    """

    def __init__(self, spec: GptSpec, *, flash_attention: bool) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(spec.width, eps=LAYER_NORM_EPS)
        self.attn = Attention(spec, flash_attention=flash_attention)
        self.ln_2 = nn.LayerNorm(spec.width, eps=LAYER_NORM_EPS)
        self.mlp = MLP(spec)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """The language model: logits[:, t] predict the token after tokens[:, t].

    With `activation_checkpointing` its blocks are computed again in the backward pass.
    """

    def __init__(
        self, spec: GptSpec, activation_checkpointing: bool = False, *, flash_attention: bool = True
    ) -> None:
        super().__init__()
        self.spec = spec
        self.activation_checkpointing = activation_checkpointing
        self.wte = nn.Embedding(spec.vocabulary, spec.width)
        self.wpe = nn.Embedding(spec.context, spec.width)
        self.h = nn.ModuleList([Block(spec, flash_attention=flash_attention) for _ in range(spec.num_layers)])
        self.ln_f = nn.LayerNorm(spec.width, eps=LAYER_NORM_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: whole numbers [n, T], T at most spec.context. Returns logits [n, T, vocabulary]."""
        positions = self.wpe.weight[: tokens.shape[1]]
        x = self.wte(tokens) + positions
        for block in self.h:
            x = recomputed(block, x) if self.activation_checkpointing and self.training else block(x)
        return F.linear(self.ln_f(x), self.wte.weight)
