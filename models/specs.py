"""Sizes of the models: what they contain, how many parameters they have and how many operations they cost.

No framework is needed for any of it; tests hold the tables against the built models. Names are PyTorch's
attribute paths and shapes PyTorch's layouts: [out, in, height, width] of a convolution, [out, in] of a linear
layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import ClassVar

# Depth -> (block, blocks in each stage). 18 to 152: He et al. 2015, table 1; 10, 14 and 26 are small kin.
RESNET_DEPTHS: dict[int, tuple[str, tuple[int, int, int, int]]] = {
    10: ("basic", (1, 1, 1, 1)),
    14: ("bottleneck", (1, 1, 1, 1)),
    18: ("basic", (2, 2, 2, 2)),
    26: ("bottleneck", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
BOTTLENECK_EXPANSION = 4
MOST = {"num_layers": 10_000, "image_size": 8_192, "context": 2**24}
"""Of what is counted out tensor by tensor, or held in memory a sample; the frameworks count all else in 31 bits."""


ACTIVATIONS = ("relu", "gelu")


@dataclass(frozen=True)
class ResNetSpec:
    """A ResNet v1.5: images of `image_size` squared pixels, `width` channels after the stem (published: 64).

    activation: "relu" as published, or "gelu" (its tanh form), smooth, for proofs in short floats: docs/matching.md.
    Raises ValueError, naming the recipe's key, for a size that no ResNet has.
    """

    family: ClassVar[str] = "resnet"
    depth: int
    num_classes: int
    image_size: int
    width: int = 64
    activation: str = "relu"

    def __post_init__(self) -> None:
        if self.depth not in RESNET_DEPTHS:
            raise ValueError(
                f"model.depth: found {self.depth!r}, expected one of {', '.join(map(str, RESNET_DEPTHS))}"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"model.activation: found {self.activation!r}, expected one of {', '.join(ACTIVATIONS)}"
            )
        _require_positive(num_classes=self.num_classes, image_size=self.image_size, width=self.width)

    @property
    def is_bottleneck(self) -> bool:
        return RESNET_DEPTHS[self.depth][0] == "bottleneck"

    @property
    def stage_blocks(self) -> tuple[int, int, int, int]:
        """Blocks in each of the four stages."""
        return RESNET_DEPTHS[self.depth][1]


@dataclass(frozen=True)
class GptSpec:
    """A GPT-2: `width` is the size of the residual stream, `context` the most tokens in a sample.

    Raises ValueError, naming the recipe's key, for a size that no GPT has.
    """

    family: ClassVar[str] = "gpt"
    num_layers: int
    num_heads: int
    width: int
    context: int
    vocabulary: int

    def __post_init__(self) -> None:
        _require_positive(
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            width=self.width,
            context=self.context,
            vocabulary=self.vocabulary,
        )
        if self.width % self.num_heads:
            raise ValueError(
                f"model.width: found {self.width}, expected a multiple of model.num_heads = {self.num_heads}"
            )


def _require_positive(**sizes: int) -> None:
    for key, size in sizes.items():
        if size < 1:
            raise ValueError(f"model.{key}: found {size!r}, expected a whole number of at least 1")
        if size > (most := MOST.get(key, 2**31 - 1)):
            raise ValueError(f"model.{key}: found {size!r}, expected a whole number of at most {most}")


# Radford et al. 2019, table 2, under the corrected parameter counts.
GPT_SIZES: dict[str, GptSpec] = {
    "124m": GptSpec(num_layers=12, num_heads=12, width=768, context=1024, vocabulary=50257),
    "350m": GptSpec(num_layers=24, num_heads=16, width=1024, context=1024, vocabulary=50257),
    "774m": GptSpec(num_layers=36, num_heads=20, width=1280, context=1024, vocabulary=50257),
    "1.5b": GptSpec(num_layers=48, num_heads=25, width=1600, context=1024, vocabulary=50257),
}

ModelSpec = ResNetSpec | GptSpec


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: canonical name, shape in PyTorch's layout, and kind, which says how it is initialised.

    Kinds: conv, norm_weight, norm_bias, linear_weight, linear_bias, running_mean, running_var (ResNet);
    embedding, dense_weight, residual_weight, dense_bias, norm_weight, norm_bias (GPT).
    """

    name: str
    shape: tuple[int, ...]
    kind: str


def parameter_table(spec: ModelSpec) -> tuple[TensorSpec, ...]:
    """The trainable tensors in module order; GPT's head is its token embedding and not listed again."""
    return tuple(_resnet_parameters(spec) if isinstance(spec, ResNetSpec) else _gpt_parameters(spec))


def buffer_table(spec: ModelSpec) -> tuple[TensorSpec, ...]:
    """The BatchNorm running statistics in module order; empty for a GPT."""
    if isinstance(spec, GptSpec):
        return ()
    return tuple(
        TensorSpec(f"{conv.norm_name}.{statistic}", (conv.out_channels,), statistic)
        for conv in _resnet_convolutions(spec)
        for statistic in ("running_mean", "running_var")
    )


def parameter_count(spec: ModelSpec) -> int:
    """Trainable numbers in the model, a tied head counted once."""
    return sum(prod(tensor.shape) for tensor in parameter_table(spec))


def forward_flops(spec: ModelSpec) -> int:
    """Floating-point operations of one sample's forward pass: matrix products only, a multiply-add is two.

    ResNet: convolutions and the classifier. GPT: linear layers, the head, and the two products of attention,
    which count in full although half of each is masked (the convention of the PaLM paper, appendix B: 2 N + 4
    L H Q T a token, where N is here the parameters that are multiplied with: no biases, norms or positions).
    """
    if isinstance(spec, ResNetSpec):
        convolutions = sum(
            conv.in_channels * conv.out_channels * conv.kernel_size**2 * conv.out_size**2
            for conv in _resnet_convolutions(spec)
        )
        return 2 * (convolutions + _resnet_features(spec) * spec.num_classes)
    multiplied = sum(
        prod(tensor.shape)
        for tensor in parameter_table(spec)
        if len(tensor.shape) == 2 and tensor.name != "wpe.weight"
    )
    attention = 2 * spec.num_layers * spec.width * spec.context
    return 2 * spec.context * (multiplied + attention)


def training_flops(spec: ModelSpec) -> int:
    """Floating-point operations to train on one sample: the backward pass costs twice the forward pass."""
    return 3 * forward_flops(spec)


@dataclass(frozen=True)
class _Convolution:
    """A convolution without bias, and the norm after it; `out_size` is the side of its output in pixels."""

    name: str
    norm_name: str
    in_channels: int
    out_channels: int
    kernel_size: int
    out_size: int


def _resnet_convolutions(spec: ResNetSpec) -> Iterator[_Convolution]:
    """Every convolution in module order."""
    size = _halved(spec.image_size)
    yield _Convolution("conv1", "bn1", 3, spec.width, 7, size)
    size = _halved(size)  # the max-pool
    in_channels = spec.width
    for stage, num_blocks in enumerate(spec.stage_blocks):
        channels = spec.width * 2**stage
        for block in range(num_blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            name = f"layer{stage + 1}.{block}"
            convolutions = _bottleneck if spec.is_bottleneck else _basic_block
            yield from convolutions(name, in_channels, channels, size, stride)
            in_channels = channels * (BOTTLENECK_EXPANSION if spec.is_bottleneck else 1)
            size = _halved(size) if stride == 2 else size


def _basic_block(
    name: str, in_channels: int, channels: int, size: int, stride: int
) -> Iterator[_Convolution]:
    out_size = _halved(size) if stride == 2 else size
    yield _Convolution(f"{name}.conv1", f"{name}.bn1", in_channels, channels, 3, out_size)
    yield _Convolution(f"{name}.conv2", f"{name}.bn2", channels, channels, 3, out_size)
    if stride != 1 or in_channels != channels:
        yield _Convolution(f"{name}.downsample.0", f"{name}.downsample.1", in_channels, channels, 1, out_size)


def _bottleneck(name: str, in_channels: int, channels: int, size: int, stride: int) -> Iterator[_Convolution]:
    """v1.5: the first 1x1 still sees the full size, the stride sits on the 3x3."""
    out_size = _halved(size) if stride == 2 else size
    out_channels = channels * BOTTLENECK_EXPANSION
    yield _Convolution(f"{name}.conv1", f"{name}.bn1", in_channels, channels, 1, size)
    yield _Convolution(f"{name}.conv2", f"{name}.bn2", channels, channels, 3, out_size)
    yield _Convolution(f"{name}.conv3", f"{name}.bn3", channels, out_channels, 1, out_size)
    if stride != 1 or in_channels != out_channels:
        yield _Convolution(
            f"{name}.downsample.0", f"{name}.downsample.1", in_channels, out_channels, 1, out_size
        )


def _resnet_features(spec: ResNetSpec) -> int:
    """Channels that reach the classifier."""
    return spec.width * 8 * (BOTTLENECK_EXPANSION if spec.is_bottleneck else 1)


def _resnet_parameters(spec: ResNetSpec) -> Iterator[TensorSpec]:
    for conv in _resnet_convolutions(spec):
        kernel_shape = (conv.out_channels, conv.in_channels, conv.kernel_size, conv.kernel_size)
        yield TensorSpec(f"{conv.name}.weight", kernel_shape, "conv")
        yield from _norm(conv.norm_name, conv.out_channels)
    yield TensorSpec("fc.weight", (spec.num_classes, _resnet_features(spec)), "linear_weight")
    yield TensorSpec("fc.bias", (spec.num_classes,), "linear_bias")


def _gpt_parameters(spec: GptSpec) -> Iterator[TensorSpec]:
    width = spec.width
    yield TensorSpec("wte.weight", (spec.vocabulary, width), "embedding")
    yield TensorSpec("wpe.weight", (spec.context, width), "embedding")
    for layer in range(spec.num_layers):
        yield from _norm(f"h.{layer}.ln_1", width)
        yield from _dense(f"h.{layer}.attn.c_attn", width, 3 * width, "dense_weight")
        yield from _dense(f"h.{layer}.attn.c_proj", width, width, "residual_weight")
        yield from _norm(f"h.{layer}.ln_2", width)
        yield from _dense(f"h.{layer}.mlp.c_fc", width, 4 * width, "dense_weight")
        yield from _dense(f"h.{layer}.mlp.c_proj", 4 * width, width, "residual_weight")
    yield from _norm("ln_f", width)


def _norm(name: str, channels: int) -> Iterator[TensorSpec]:
    yield TensorSpec(f"{name}.weight", (channels,), "norm_weight")
    yield TensorSpec(f"{name}.bias", (channels,), "norm_bias")


def _dense(name: str, in_width: int, out_width: int, weight_kind: str) -> Iterator[TensorSpec]:
    yield TensorSpec(f"{name}.weight", (out_width, in_width), weight_kind)
    yield TensorSpec(f"{name}.bias", (out_width,), "dense_bias")


def _halved(size: int) -> int:
    """Side of the output of a stride-2 convolution or pool, padded by half its (odd) kernel on each side."""
    return (size + 1) // 2
