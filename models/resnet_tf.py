"""ResNet v1.5 in TensorFlow. Its twin is resnet_torch.py.

He et al. 2015, the stride of a bottleneck on its 3x3 convolution (v1.5). Attribute names are torchvision's.
"""

import os
from functools import partial

os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the user's keras.json says

import keras
import tensorflow as tf

from models.layers_tf import (
    ACTIVATIONS,
    Activation,
    BatchNormalization,
    Conv2D,
    Dense,
    Sequential,
    max_pool,
    widened,
)
from models.recomputing_tf import recomputed
from models.specs import BOTTLENECK_EXPANSION, ResNetSpec

BATCH_NORM_EPS = 1e-5
BATCH_NORM_MOMENTUM = 0.1


class BasicBlock(keras.layers.Layer):
    """Two 3x3 convolutions around a shortcut, for depths up to 34."""

    expansion = 1

    def __init__(
        self, in_channels: int, channels: int, stride: int, activation: Activation, *, dtype: str
    ) -> None:
        super().__init__(dtype=dtype)
        self.activation = activation
        self.conv1 = convolution(in_channels, channels, 3, stride, dtype=dtype)
        self.bn1 = batch_norm(channels, dtype=dtype)
        self.conv2 = convolution(channels, channels, 3, dtype=dtype)
        self.bn2 = batch_norm(channels, dtype=dtype)
        self.downsample = downsample(in_channels, channels, stride, dtype=dtype)
        self.built = True

    def call(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x, training=training)
        x = self.activation(self.bn1(self.conv1(x), training=training))
        x = self.bn2(self.conv2(x), training=training)
        return self.activation(x + shortcut)


class Bottleneck(keras.layers.Layer):
    """1x1, 3x3 and 1x1 convolutions around a shortcut, for depths from 50; the 3x3 has the stride (v1.5)."""

    expansion = BOTTLENECK_EXPANSION

    def __init__(
        self, in_channels: int, channels: int, stride: int, activation: Activation, *, dtype: str
    ) -> None:
        super().__init__(dtype=dtype)
        self.activation = activation
        self.conv1 = convolution(in_channels, channels, 1, dtype=dtype)
        self.bn1 = batch_norm(channels, dtype=dtype)
        self.conv2 = convolution(channels, channels, 3, stride, dtype=dtype)
        self.bn2 = batch_norm(channels, dtype=dtype)
        self.conv3 = convolution(channels, channels * self.expansion, 1, dtype=dtype)
        self.bn3 = batch_norm(channels * self.expansion, dtype=dtype)
        self.downsample = downsample(in_channels, channels * self.expansion, stride, dtype=dtype)
        self.built = True

    def call(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x, training=training)
        x = self.activation(self.bn1(self.conv1(x), training=training))
        x = self.activation(self.bn2(self.conv2(x), training=training))
        x = self.bn3(self.conv3(x), training=training)
        return self.activation(x + shortcut)


class ResNet(keras.Model):
    """The image classifier. With `activation_checkpointing` its blocks are computed again in the backward pass."""

    def __init__(self, spec: ResNetSpec, dtype: str, activation_checkpointing: bool = False) -> None:
        super().__init__(dtype=dtype)
        self.spec = spec
        self.activation_checkpointing = activation_checkpointing
        width, blocks = spec.width, spec.stage_blocks
        block = Bottleneck if spec.is_bottleneck else BasicBlock
        self.activation = ACTIVATIONS[spec.activation]
        self.conv1 = convolution(3, width, 7, stride=2, dtype=dtype)
        self.bn1 = batch_norm(width, dtype=dtype)
        stage = partial(_stage, block, activation=self.activation, dtype=dtype)
        self.layer1 = stage(width, width, blocks[0], stride=1)
        self.layer2 = stage(width * block.expansion, 2 * width, blocks[1], stride=2)
        self.layer3 = stage(2 * width * block.expansion, 4 * width, blocks[2], stride=2)
        self.layer4 = stage(4 * width * block.expansion, 8 * width, blocks[3], stride=2)
        self.fc = Dense(8 * width * block.expansion, spec.num_classes, dtype=dtype)
        self.built = True

    def call(self, images: tf.Tensor, training: bool) -> tf.Tensor:
        """images: normalised [n, image_size, image_size, 3]. Returns logits [n, num_classes].

        With `training`, batch norms use their batch's statistics and update their running ones.
        """
        x = self.activation(self.bn1(self.conv1(images), training=training))
        x = max_pool(x, pool_size=3, strides=2)
        recomputes = self.activation_checkpointing and training
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in layer.layers:
                x = recomputed(block, x, training=True) if recomputes else block(x, training=training)
        return self.fc(tf.reduce_mean(widened(x), axis=[1, 2]))


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    channels: int,
    num_blocks: int,
    stride: int,
    activation: Activation,
    *,
    dtype: str,
) -> Sequential:
    """Blocks of one size of image; the first brings the stride and the change of channels."""
    first = block(in_channels, channels, stride, activation, dtype=dtype)
    others = (
        block(channels * block.expansion, channels, 1, activation, dtype=dtype) for _ in range(num_blocks - 1)
    )
    return Sequential(first, *others, dtype=dtype)


def downsample(in_channels: int, out_channels: int, stride: int, *, dtype: str) -> Sequential | None:
    """The shortcut's projection where the block changes the shape; None for an identity."""
    if stride == 1 and in_channels == out_channels:
        return None
    projection = convolution(in_channels, out_channels, 1, stride, dtype=dtype)
    return Sequential(projection, batch_norm(out_channels, dtype=dtype), dtype=dtype)


def convolution(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, *, dtype: str
) -> Conv2D:
    """Symmetric padding, and no bias: a norm follows."""
    return Conv2D(in_channels, out_channels, kernel_size, stride, dtype=dtype)


def batch_norm(channels: int, *, dtype: str) -> BatchNormalization:
    """Normalises with the batch's biased variance; keeps a running mean and an unbiased running variance."""
    return BatchNormalization(channels, epsilon=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM, dtype=dtype)
