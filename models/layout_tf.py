"""A TensorFlow model's tensors under canonical names.

The one place where PyTorch's layouts, which are the canonical ones, become Keras's and back.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the user's keras.json says

import keras
import numpy as np
import tensorflow as tf

from models.specs import TensorSpec, buffer_table, parameter_table

_KERAS_ATTRIBUTES = {
    "conv": "kernel",
    "linear_weight": "kernel",
    "dense_weight": "kernel",
    "residual_weight": "kernel",
    "linear_bias": "bias",
    "dense_bias": "bias",
    "norm_weight": "gamma",
    "norm_bias": "beta",
    "embedding": "embeddings",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_TRANSPOSED_KINDS = ("linear_weight", "dense_weight", "residual_weight")


def named_variables(model: keras.Model) -> dict[str, tf.Variable]:
    """Trainable variables by canonical name, in the order of specs.parameter_table."""
    return {tensor.name: _variable(model, tensor) for tensor in parameter_table(model.spec)}


def named_buffers(model: keras.Model) -> dict[str, tf.Variable]:
    """BatchNorm running statistics by canonical name, in the order of specs.buffer_table."""
    return {tensor.name: _variable(model, tensor) for tensor in buffer_table(model.spec)}


def to_framework(array: np.ndarray, kind: str) -> np.ndarray:
    """From PyTorch's layout to Keras's: convolutions OIHW to HWIO, linear layers [out, in] to [in, out]."""
    if kind == "conv":
        return np.ascontiguousarray(array.transpose(2, 3, 1, 0))
    return np.ascontiguousarray(array.T) if kind in _TRANSPOSED_KINDS else array


def to_canonical(array: np.ndarray, kind: str) -> np.ndarray:
    """From Keras's layout to PyTorch's, the inverse of to_framework: a view, since moving takes long.

    Training waits for the copy of its state; the thread that writes it brings the numbers in order.
    """
    if kind == "conv":
        return array.transpose(3, 2, 0, 1)
    return array.T if kind in _TRANSPOSED_KINDS else array


def _variable(model: keras.Model, tensor: TensorSpec) -> tf.Variable:
    """Follows the canonical name, say layer1.0.conv1.weight, through the model's attributes and lists."""
    *path, _ = tensor.name.split(".")
    layer = model
    for part in path:
        layer = layer[int(part)] if part.isdigit() else getattr(layer, part)
    return getattr(layer, _KERAS_ATTRIBUTES[tensor.kind]).value
