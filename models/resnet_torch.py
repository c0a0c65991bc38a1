"""ResNet v1.5 in PyTorch. Its twin is resnet_tf.py.

He et al. 2015, the stride of a bottleneck on its 3x3 convolution (v1.5). Attribute names are torchvision's.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from models.layers_torch import ACTIVATIONS, Activation
from models.recomputing_torch import recomputed
from models.specs import BOTTLENECK_EXPANSION, ResNetSpec

BATCH_NORM_EPS = 1e-5
BATCH_NORM_MOMENTUM = 0.1


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, for depths up to 34."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = convolution(in_channels, channels, 3, stride)
        self.bn1 = batch_norm(channels)
        self.conv2 = convolution(channels, channels, 3)
        self.bn2 = batch_norm(channels)
        self.downsample = downsample(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.activation(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x += shortcut
        return self.activation(x)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut, for depths from 50; the 3x3 has the stride (v1.5)."""

    expansion = BOTTLENECK_EXPANSION

    def __init__(self, in_channels: int, channels: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = convolution(in_channels, channels, 1)
        self.bn1 = batch_norm(channels)
        self.conv2 = convolution(channels, channels, 3, stride)
        self.bn2 = batch_norm(channels)
        self.conv3 = convolution(channels, channels * self.expansion, 1)
        self.bn3 = batch_norm(channels * self.expansion)
        self.downsample = downsample(in_channels, channels * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.activation(self.bn1(self.conv1(x)))
        x = self.activation(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        x += shortcut
        return self.activation(x)


class ResNet(nn.Module):
    """The image classifier. With `activation_checkpointing` its blocks are computed again in the backward pass."""

    def __init__(self, spec: ResNetSpec, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.spec = spec
        self.activation_checkpointing = activation_checkpointing
        width, blocks = spec.width, spec.stage_blocks
        block = Bottleneck if spec.is_bottleneck else BasicBlock
        self.activation = ACTIVATIONS[spec.activation]
        self.conv1 = convolution(3, width, 7, stride=2)
        self.bn1 = batch_norm(width)
        stage = partial(_stage, block, activation=self.activation)
        self.layer1 = stage(width, width, blocks[0], stride=1)
        self.layer2 = stage(width * block.expansion, 2 * width, blocks[1], stride=2)
        self.layer3 = stage(2 * width * block.expansion, 4 * width, blocks[2], stride=2)
        self.layer4 = stage(4 * width * block.expansion, 8 * width, blocks[3], stride=2)
        self.fc = nn.Linear(8 * width * block.expansion, spec.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """images: normalised [n, 3, image_size, image_size]. Returns logits [n, num_classes]."""
        x = self.activation(self.bn1(self.conv1(images)))
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)  # pads with -inf
        recomputes = self.activation_checkpointing and self.training
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in layer:
                x = recomputed(block, x) if recomputes else block(x)
        return self.fc(x.mean(dim=(2, 3)))


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    channels: int,
    num_blocks: int,
    stride: int,
    activation: Activation,
) -> nn.Sequential:
    """Blocks of one size of image; the first brings the stride and the change of channels."""
    first = block(in_channels, channels, stride, activation)
    others = (block(channels * block.expansion, channels, 1, activation) for _ in range(num_blocks - 1))
    return nn.Sequential(first, *others)


def downsample(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """The shortcut's projection where the block changes the shape; None for an identity."""
    if stride == 1 and in_channels == out_channels:
        return None
    projection = convolution(in_channels, out_channels, 1, stride)
    return nn.Sequential(projection, batch_norm(out_channels))


def convolution(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """Symmetric padding, and no bias: a norm follows."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Normalises with the batch's biased variance; keeps a running mean and an unbiased running variance."""
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)
