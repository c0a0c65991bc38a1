"""ResNet and GPT from Keras's own layers, for inference: a file of them loads where none of our code is.

They compute what resnet_tf.py and transformer_tf.py compute without training. Those have layers of their own for the
sake of training (momentum, gradients, replicas); what is left of the differences in inference is in the arguments.
"""

import os
from typing import TypeAlias

os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the user's keras.json says

import keras
import numpy as np

from models.layout_tf import to_framework
from models.resnet_tf import BATCH_NORM_EPS
from models.specs import GptSpec, ModelSpec, ResNetSpec, parameter_table
from models.transformer_tf import LAYER_NORM_EPS

Arrays = dict[str, np.ndarray]
Tensor: TypeAlias = keras.KerasTensor
DTYPE, LAST = "float32", "channels_last"


def resnet(
    spec: ResNetSpec, values: Arrays, pixel_mean: tuple[float, ...], pixel_std: tuple[float, ...]
) -> keras.Model:
    """From uint8 pixels [n, image_size, image_size, 3], normalised inside, to logits [n, num_classes].

    values: canonical arrays, float32.
    """
    make = _Layers(spec, values)
    images = keras.Input((spec.image_size, spec.image_size, 3), dtype="uint8", name="images")
    variance = [std**2 for std in pixel_std]
    x = keras.layers.Normalization(axis=-1, mean=pixel_mean, variance=variance, dtype=DTYPE)(images)
    x = make.activation(make.convolution_and_norm(x, "conv1", "bn1", stride=2))
    x = keras.ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=-np.inf)
    x = keras.layers.MaxPooling2D(3, 2, data_format=LAST, dtype=DTYPE)(x)
    for stage, num_blocks in enumerate(spec.stage_blocks, start=1):
        for block in range(num_blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            x = _residual(make, x, f"layer{stage}.{block}", stride, spec.is_bottleneck)
    x = keras.layers.GlobalAveragePooling2D(data_format=LAST, dtype=DTYPE)(x)
    return keras.Model(images, make.dense(x, "fc"), name="resnet")


def _residual(make: "_Layers", x: Tensor, name: str, stride: int, is_bottleneck: bool) -> Tensor:
    """One block; the stride of a bottleneck is on its 3x3 (v1.5)."""
    strides = (1, stride, 1) if is_bottleneck else (stride, 1)
    shortcut = x
    for number, each in enumerate(strides, start=1):
        x = make.convolution_and_norm(x, f"{name}.conv{number}", f"{name}.bn{number}", each)
        x = make.activation(x) if number < len(strides) else x
    if f"{name}.downsample.0.weight" in make.values:
        shortcut = make.convolution_and_norm(shortcut, f"{name}.downsample.0", f"{name}.downsample.1", stride)
    return make.activation(keras.layers.Add(dtype=DTYPE)([x, shortcut]))


def gpt(spec: GptSpec, values: Arrays) -> keras.Model:
    """From int32 tokens [n, T], T at most spec.context, to logits [n, T, vocabulary].

    values: canonical arrays, float32. No stock layer shares an embedding with a head, so the table is there twice.
    """
    make = _Layers(spec, values)
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    positions = keras.ops.cumsum(keras.ops.ones_like(tokens), axis=1) - 1
    x = keras.layers.Add(dtype=DTYPE)([make.embedding(tokens, "wte"), make.embedding(positions, "wpe")])
    for layer in range(spec.num_layers):
        name = f"h.{layer}"
        attended = make.attention(make.layer_norm(x, f"{name}.ln_1"), f"{name}.attn")
        x = keras.layers.Add(dtype=DTYPE)([x, attended])
        inner = make.dense(make.layer_norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc")
        x = keras.layers.Add(dtype=DTYPE)([x, make.dense(_gelu(inner), f"{name}.mlp.c_proj")])
    head = keras.layers.Dense(spec.vocabulary, use_bias=False, dtype=DTYPE, name="head")
    logits = head(make.layer_norm(x, "ln_f"))
    head.set_weights([values["wte.weight"].T])
    return keras.Model(tokens, logits, name="gpt")


class _Layers:
    """Makes a layer, calls it, which builds it, and sets its weights."""

    def __init__(self, spec: ModelSpec, values: Arrays) -> None:
        self.spec, self.values = spec, values
        self.kinds = {tensor.name: tensor.kind for tensor in parameter_table(spec)}

    def _weights(self, name: str, *parts: str) -> list[np.ndarray]:
        """In Keras's layout."""
        names = [f"{name}.{part}" for part in parts]
        return [to_framework(self.values[each], self.kinds.get(each, "running")) for each in names]

    def convolution_and_norm(self, x: Tensor, name: str, norm_name: str, stride: int = 1) -> Tensor:
        """Padded by half the kernel on all sides, by hand: "same" would pad an even image at two of them."""
        (kernel,) = self._weights(name, "weight")
        size, filters = kernel.shape[0], kernel.shape[-1]
        layer = keras.layers.Conv2D(
            filters, size, stride, use_bias=False, data_format=LAST, dtype=DTYPE, name=_plain(name)
        )
        x = layer(_pad(x, size // 2))
        layer.set_weights([kernel])
        norm = keras.layers.BatchNormalization(epsilon=BATCH_NORM_EPS, dtype=DTYPE, name=_plain(norm_name))
        x = norm(x, training=False)
        norm.set_weights(self._weights(norm_name, "weight", "bias", "running_mean", "running_var"))
        return x

    def activation(self, x: Tensor) -> Tensor:
        """The ResNet's."""
        assert isinstance(self.spec, ResNetSpec)
        return keras.layers.ReLU(dtype=DTYPE)(x) if self.spec.activation == "relu" else _gelu(x)

    def dense(self, x: Tensor, name: str) -> Tensor:
        """A linear layer."""
        kernel, bias = self._weights(name, "weight", "bias")
        layer = keras.layers.Dense(len(bias), dtype=DTYPE, name=_plain(name))
        x = layer(x)
        layer.set_weights([kernel, bias])
        return x

    def embedding(self, x: Tensor, name: str) -> Tensor:
        """Rows of a table."""
        (table,) = self._weights(name, "weight")
        layer = keras.layers.Embedding(*table.shape, dtype=DTYPE, name=_plain(name))
        x = layer(x)
        layer.set_weights([table])
        return x

    def layer_norm(self, x: Tensor, name: str) -> Tensor:
        """Over the last axis."""
        layer = keras.layers.LayerNormalization(epsilon=LAYER_NORM_EPS, dtype=DTYPE, name=_plain(name))
        x = layer(x)
        layer.set_weights(self._weights(name, "weight", "bias"))
        return x

    def attention(self, x: Tensor, name: str) -> Tensor:
        """Causal self-attention; Keras has queries, keys and values apart, each with an axis for the heads."""
        assert isinstance(self.spec, GptSpec)
        width, heads = self.spec.width, self.spec.num_heads
        layer = keras.layers.MultiHeadAttention(heads, width // heads, dtype=DTYPE, name=_plain(name))
        x = layer(x, x, use_causal_mask=True)
        kernel, bias = self._weights(f"{name}.c_attn", "weight", "bias")
        weights = []
        for matrix, vector in zip(np.split(kernel, 3, axis=1), np.split(bias, 3), strict=True):
            weights += [matrix.reshape(width, heads, -1), vector.reshape(heads, -1)]
        kernel, bias = self._weights(f"{name}.c_proj", "weight", "bias")
        layer.set_weights([*weights, kernel.reshape(heads, -1, width), bias])
        return x


def _pad(x: Tensor, width: int) -> Tensor:
    return keras.layers.ZeroPadding2D(width, data_format=LAST, dtype=DTYPE)(x) if width else x


def _gelu(x: Tensor) -> Tensor:
    return keras.ops.gelu(x, approximate=True)


def _plain(name: str) -> str:
    """A layer's name without dots, which paths in Keras's files would take for their own."""
    return name.replace(".", "_")
