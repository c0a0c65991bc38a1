"""Keras layers that compute what PyTorch's layers of the same purpose compute.

All of them take the size of their input first, as in PyTorch, and make their variables at once rather than on
the first call, filled with zeros and ones: the values come from models.initial.
"""

import os
from collections.abc import Callable
from math import pi, sqrt

os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the user's keras.json says

import keras
import numpy as np
import tensorflow as tf

from models.recomputing_tf import updates_statistics


class Conv2D(keras.layers.Conv2D):
    """Convolution without bias, [n, H, W, in] -> [n, H / strides, W / strides, out].

    Pads symmetrically, where "same" with a stride of 2 pads an even image at the bottom and the right only.
    Pads by hand then: tf.nn.conv2d takes explicit padding too, but its gradients are up to 7 times slower on
    a CPU, as oneDNN has no kernels for them.
    """

    def __init__(
        self, in_channels: int, filters: int, kernel_size: int, strides: int = 1, *, dtype: str
    ) -> None:
        super().__init__(
            filters,
            kernel_size,
            strides,
            data_format="channels_last",
            use_bias=False,
            kernel_initializer="zeros",
            dtype=dtype,
        )
        self.side_padding = kernel_size // 2
        self.build((None, None, None, in_channels))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if self.strides == (1, 1):
            return tf.nn.conv2d(inputs, self.kernel, self.strides, padding="SAME")
        return tf.nn.conv2d(pad_sides(inputs, self.side_padding), self.kernel, self.strides, padding="VALID")


class BatchNormalization(keras.layers.Layer):
    """Batch normalisation over [n, H, W, channels], with a worker's own batch.

    Normalises with the biased variance and keeps an unbiased running variance. Under a tf.distribute strategy
    each replica has running statistics of its own, which whoever evaluates or saves the model averages.
    `momentum` is the share of the new value, as in PyTorch; in Keras's layer it is that of the old one.
    """

    def __init__(self, channels: int, *, epsilon: float, momentum: float, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.epsilon = epsilon
        self.momentum = momentum
        self.gamma = self.add_weight((channels,), "ones", name="gamma", autocast=False)
        self.beta = self.add_weight((channels,), "zeros", name="beta", autocast=False)
        self.moving_mean = self._add_statistic("zeros", (channels,), "moving_mean")
        self.moving_variance = self._add_statistic("ones", (channels,), "moving_variance")
        self.built = True

    def _add_statistic(self, initializer: str, shape: tuple[int], name: str) -> keras.Variable:
        return self.add_weight(
            shape, initializer, name=name, trainable=False, autocast=False, aggregation="none"
        )

    def call(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        if inputs.dtype == tf.float64:
            return self._normalize_float64(inputs, training)
        return self._normalize_fused(inputs, training)

    def _normalize_fused(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        """The fused kernel also computes the new running statistics, with Bessel's correction.

        It is called directly because tf.nn's wrapper raises epsilon to 1.001e-5.
        """
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=self.moving_mean.value,
            variance=self.moving_variance.value,
            epsilon=self.epsilon,
            exponential_avg_factor=self.momentum,
            is_training=training,
        )
        if training and updates_statistics():
            self.moving_mean.value.assign(mean)
            self.moving_variance.value.assign(variance)
        return outputs

    def _normalize_float64(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        """There is no fused kernel for float64."""
        if not training:
            return self._scale_and_shift(inputs, self.moving_mean.value, self.moving_variance.value)
        mean, variance = tf.nn.moments(inputs, axes=[0, 1, 2])
        if updates_statistics():
            count = tf.cast(tf.size(inputs) // tf.size(mean), inputs.dtype)
            self._update(self.moving_mean.value, mean)
            self._update(self.moving_variance.value, variance * count / (count - 1))
        return self._scale_and_shift(inputs, mean, variance)

    def _scale_and_shift(self, inputs: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        # Subtracting the mean first keeps digits that tf.nn.batch_normalization loses.
        scale = self.gamma.value / tf.sqrt(variance + self.epsilon)
        return (inputs - mean) * scale + self.beta.value

    def _update(self, statistic: tf.Variable, value: tf.Tensor) -> None:
        statistic.assign((1 - self.momentum) * statistic + self.momentum * value)


class LayerNormalization(keras.layers.LayerNormalization):
    """Layer normalisation over the last axis, in the type of the parameters."""

    def __init__(self, width: int, *, epsilon: float, dtype: str) -> None:
        super().__init__(epsilon=epsilon, dtype=parameter_dtype(dtype))
        self.build((None, width))


class Dense(keras.layers.Dense):
    """A linear layer, [..., in] -> [..., out]."""

    def __init__(self, in_width: int, units: int, *, dtype: str) -> None:
        super().__init__(units, kernel_initializer="zeros", dtype=dtype)
        self.build((None, in_width))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if self.compute_dtype == self.variable_dtype:
            return super().call(inputs)
        return _add_bias(keras.ops.matmul(inputs, self.kernel), self.bias.value)


class Embedding(keras.layers.Embedding):
    """A table of vectors, whole numbers [...] -> [..., width]; its gradient is dense.

    Keras's own is tf.IndexedSlices, which would be gathered from all workers instead of summed over them, and
    has to be made dense anyway where it is added to the gradient of a head that shares the table.
    """

    def __init__(self, rows: int, width: int, *, dtype: str) -> None:
        super().__init__(rows, width, embeddings_initializer="zeros", dtype=parameter_dtype(dtype))
        self.product_dtype = keras.dtype_policies.get(dtype).compute_dtype
        self.build()

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return _gather_rows(tf.convert_to_tensor(self.embeddings.value), inputs)

    def project(self, x: tf.Tensor) -> tf.Tensor:
        """The head that shares the table: [n, width] -> [n, rows], a product in the policy's type."""
        table = tf.cast(self.embeddings.value, self.product_dtype)
        return tf.matmul(tf.cast(x, self.product_dtype), table, transpose_b=True)


class Sequential(keras.layers.Layer):
    """Layers called in turn, and found by index, as those of torch.nn.Sequential."""

    def __init__(self, *layers: keras.layers.Layer, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.layers = list(layers)
        self.built = True

    def __getitem__(self, index: int) -> keras.layers.Layer:
        return self.layers[index]

    def call(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        for layer in self.layers:
            x = layer(x, training=training)
        return x


@tf.custom_gradient
def _add_bias(x: tf.Tensor, bias: tf.Tensor):  # type: ignore[no-untyped-def]  # the decorator hides the types anyway
    """In half precision the gradient of a bias is summed in float32, where BiasAddGrad adds up in bfloat16."""

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        total = tf.reduce_sum(widened(upstream), axis=list(range(len(upstream.shape) - 1)))
        return upstream, tf.cast(total, upstream.dtype)

    return tf.nn.bias_add(x, bias), gradient


@tf.custom_gradient
def _gather_rows(table: tf.Tensor, rows: tf.Tensor):  # type: ignore[no-untyped-def]  # the decorator hides the types anyway
    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        return tf.math.unsorted_segment_sum(upstream, rows, table.shape[0]), None

    return tf.gather(table, rows), gradient


def parameter_dtype(policy: str) -> str:
    """The type of the variables under a policy: float32 for "mixed_bfloat16" and "mixed_float16"."""
    return keras.dtype_policies.get(policy).variable_dtype


def pad_sides(images: tf.Tensor, width: int, value: float = 0.0) -> tf.Tensor:
    """A frame of `width` pixels around images [n, H, W, channels]."""
    if width == 0:
        return images
    return tf.pad(images, [[0, 0], [width, width], [width, width], [0, 0]], constant_values=value)


def max_pool(x: tf.Tensor, pool_size: int, strides: int) -> tf.Tensor:
    """Maxima over squares, [n, H, W, channels] -> [n, H / strides, W / strides, channels].

    Pads symmetrically with -inf. Padded by hand because XLA knows no pooling with explicit padding.
    """
    return tf.nn.max_pool2d(pad_sides(x, pool_size // 2, -np.inf), pool_size, strides, padding="VALID")


def gelu(x: tf.Tensor) -> tf.Tensor:
    """GELU in its tanh form (Hendrycks & Gimpel 2016, section 2), in float32 at least, then rounded once.

    Not tf.nn.gelu, which rounds the constant 0.044715 to float32 for float64 numbers too.
    """
    dtype, x = x.dtype, widened(x)
    slope = sqrt(2 / pi)
    return tf.cast(0.5 * x * (1 + tf.tanh(x * (slope + slope * 0.044715 * tf.square(x)))), dtype)


Activation = Callable[[tf.Tensor], tf.Tensor]
ACTIVATIONS: dict[str, Activation] = {"relu": tf.nn.relu, "gelu": gelu}
"""Of a ResNet, by the name that its recipe has."""


def causal_bias(length: int, dtype: tf.DType) -> tf.Tensor:
    """What to add to attention's scores: 0 up to a query's own position, -inf after it; [length, length]."""
    visible = tf.linalg.band_part(tf.ones([length, length], tf.bool), -1, 0)
    return tf.where(visible, tf.zeros([], dtype), tf.constant(-np.inf, dtype))


def attention(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Scaled dot-product attention; query, key, value and result [n, heads, T, head_width].

    The softmax is computed in float32, or in the query's type if that is wider; `bias` is of that type.
    """
    query *= query.shape[-1] ** -0.5  # cheaper than scaling the T x T scores
    scores = widened(tf.matmul(query, key, transpose_b=True)) + bias
    return tf.matmul(tf.cast(tf.nn.softmax(scores), query.dtype), value)


def widened(x: tf.Tensor) -> tf.Tensor:
    """In float32, or in its own type if that is wider."""
    return tf.cast(x, tf.float64 if x.dtype == tf.float64 else tf.float32)
