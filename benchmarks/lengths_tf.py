"""What batches of eight different lengths cost in TensorFlow: retracings, and the time of a pass over the lengths.

    python -m benchmarks.lengths_tf [eager;tf.function;…]

The twin of lengths_torch.py. tf.function is without AutoGraph, as in our scripts. Our GPT reads the length of a batch
from its static shape, so it cannot be traced with a length that is open; OpenGPT can.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the user's keras.json says

import sys
from typing import Any
from unittest import mock

import tensorflow as tf

from benchmarks import probe
from models import transformer_tf
from models.layers_tf import attention, causal_bias
from models.layout_tf import named_variables
from models.losses_tf import cross_entropy_sum

OPEN = [tf.TensorSpec([None, None], tf.int32)]
MODES: dict[str, dict | None] = {
    "eager": None,
    "tf.function": {},
    "tf.function(reduce_retracing=True)": {"reduce_retracing": True},
    "tf.function(input_signature=[None, None])": {"input_signature": OPEN},
    "jit_compile": {"jit_compile": True},
    "jit_compile, input_signature": {"jit_compile": True, "input_signature": OPEN},
}


class OpenAttention(transformer_tf.Attention):
    """Takes the length as a tensor, where ours takes it as a number."""

    def call(self, x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        length, width = tf.shape(x)[1], x.shape[2]
        qkv = tf.reshape(self.c_attn(x), [-1, length, 3, self.num_heads, width // self.num_heads])
        query, key, value = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]))
        attended = attention(query, key, value, bias)
        return self.c_proj(tf.reshape(tf.transpose(attended, [0, 2, 1, 3]), [-1, length, width]))


class OpenGPT(transformer_tf.GPT):
    """Takes the length as a tensor, where ours takes it as a number."""

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        length = tf.shape(tokens)[1]
        x = self.wte(tokens) + self.wpe.embeddings[:length]
        bias = causal_bias(length, x.dtype)
        for block in self.h:
            x = block(x, bias)
        flat = tf.reshape(self.ln_f(x), [-1, self.spec.width])
        logits = tf.matmul(flat, self.wte.embeddings.value, transpose_b=True)
        return tf.reshape(logits, [-1, length, self.spec.vocabulary])


def make_model(is_open: bool) -> transformer_tf.GPT:
    """Our GPT, or one that is traced with a length that is open."""
    spec = probe.small_gpt()
    if not is_open:
        return transformer_tf.GPT(spec, probe.PRECISION)
    with mock.patch.object(transformer_tf, "Attention", OpenAttention):
        return OpenGPT(spec, probe.PRECISION)


def tell_mode(mode: str, is_open: bool) -> None:
    """All passes in one mode, through our GPT or through OpenGPT."""
    spec, options = probe.small_gpt(), MODES[mode]
    model = make_model(is_open)
    variables = list(named_variables(model).values())

    def gradients(batch: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = cross_entropy_sum(model(batch, training=True), batch, 0.0)
        return tape.gradient(loss, variables)

    traced: Any = gradients if options is None else tf.function(gradients, autograph=False, **options)
    name = f"{mode}, length as a tensor" if is_open else mode
    probe.tell_lengths(
        name,
        lambda length: traced(tf.constant(probe.tokens(spec, length))),
        lambda: None if options is None else traced.experimental_get_tracing_count(),
    )


def main() -> None:
    """The modes asked for, or all."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for mode in sys.argv[1].split(";") if len(sys.argv) > 1 else MODES:
        tell_mode(mode, is_open=False)
        if "signature" in mode or "retracing" in mode:
            tell_mode(mode, is_open=True)


if __name__ == "__main__":
    main()
