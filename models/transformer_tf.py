"""GPT-2 in TensorFlow. Its twin is transformer_torch.py.

Pre-norm blocks, learned positions, tanh GELU, the head tied to the token embedding, no dropout (Radford et
al. 2019).
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the user's keras.json says

import keras
import tensorflow as tf

from models.layers_tf import (
    Dense,
    Embedding,
    LayerNormalization,
    attention,
    causal_bias,
    gelu,
    parameter_dtype,
)
from models.recomputing_tf import recomputed
from models.specs import GptSpec

LAYER_NORM_EPS = 1e-5


class Attention(keras.layers.Layer):
    """Causal self-attention over several heads. Shapes: [n, T, width] -> [n, T, width]."""

    def __init__(self, spec: GptSpec, *, dtype: str) -> None:
        super().__init__(dtype=parameter_dtype(dtype))
        self.num_heads = spec.num_heads
        self.c_attn = Dense(
            spec.width, 3 * spec.width, dtype=dtype
        )  # queries, keys and values in one product
        self.c_proj = Dense(spec.width, spec.width, dtype=dtype)
        self.built = True

    def call(self, x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        length, width = x.shape[1:]
        qkv = tf.reshape(self.c_attn(x), [-1, length, 3, self.num_heads, width // self.num_heads])
        query, key, value = tf.unstack(
            tf.transpose(qkv, [2, 0, 3, 1, 4])
        )  # each [n, heads, T, width / heads]
        attended = attention(query, key, value, bias)
        return self.c_proj(tf.reshape(tf.transpose(attended, [0, 2, 1, 3]), [-1, length, width]))


class MLP(keras.layers.Layer):
    """Two linear layers with a tanh GELU between. Shapes: [n, T, width] -> [n, T, width]."""

    def __init__(self, spec: GptSpec, *, dtype: str) -> None:
        super().__init__(dtype=parameter_dtype(dtype))
        self.c_fc = Dense(spec.width, 4 * spec.width, dtype=dtype)
        self.c_proj = Dense(4 * spec.width, spec.width, dtype=dtype)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.c_proj(gelu(self.c_fc(x)))


class Block(keras.layers.Layer):
    """Attention, then MLP, each on a normalised copy of the residual stream and added back to it.

    The stream has the type of the parameters in every precision.
    """

    def __init__(self, spec: GptSpec, *, dtype: str) -> None:
        super().__init__(dtype=parameter_dtype(dtype))
        self.ln_1 = LayerNormalization(spec.width, epsilon=LAYER_NORM_EPS, dtype=dtype)
        self.attn = Attention(spec, dtype=dtype)
        self.ln_2 = LayerNormalization(spec.width, epsilon=LAYER_NORM_EPS, dtype=dtype)
        self.mlp = MLP(spec, dtype=dtype)
        self.built = True

    def call(self, x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        x = x + tf.cast(self.attn(self.ln_1(x), bias), x.dtype)
        return x + tf.cast(self.mlp(self.ln_2(x)), x.dtype)


class GPT(keras.Model):
    """The language model: logits[:, t] predict the token after tokens[:, t].

    With `activation_checkpointing` its blocks are computed again in the backward pass.
    """

    def __init__(self, spec: GptSpec, dtype: str, activation_checkpointing: bool = False) -> None:
        super().__init__(dtype=parameter_dtype(dtype))
        self.spec = spec
        self.activation_checkpointing = activation_checkpointing
        self.wte = Embedding(spec.vocabulary, spec.width, dtype=dtype)
        self.wpe = Embedding(spec.context, spec.width, dtype=dtype)
        self.h = [Block(spec, dtype=dtype) for _ in range(spec.num_layers)]
        self.ln_f = LayerNormalization(spec.width, epsilon=LAYER_NORM_EPS, dtype=dtype)
        self.built = True

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        """tokens: whole numbers [n, T], T at most spec.context. Returns logits [n, T, vocabulary]."""
        length = tokens.shape[1]
        positions = self.wpe.embeddings[:length]
        x = self.wte(tokens) + positions
        bias = causal_bias(length, x.dtype)  # once for all layers
        for block in self.h:
            x = recomputed(block, x, bias=bias) if self.activation_checkpointing else block(x, bias)
        logits = self.wte.project(tf.reshape(self.ln_f(x), [-1, self.spec.width]))
        return tf.reshape(logits, [-1, length, self.spec.vocabulary])
