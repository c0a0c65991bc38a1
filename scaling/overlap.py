"""A training step in which gradients travel while the backward pass still runs.

Gradients become ready in reverse order of the parameters; they are packed; one stream sends a pack after another, each
as soon as its last gradient is ready and the pack before it has arrived (Li et al. 2020, "PyTorch Distributed").
Left out: that communication slows down the computing beside it, and what starting a collective costs the host.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from models.specs import GptSpec, ModelSpec, ResNetSpec, TensorSpec, forward_flops, parameter_table

BACKWARD_SHARE = 2 / 3
"""Of forward and backward together: the backward pass has two products for each one of the forward pass."""
MIB = 2**20
FIRST_BUCKET_BYTES = 1 * MIB
"""DDP's first bucket is small, so that the first all-reduce starts early, unless it is told a size
(kDefaultFirstBucketBytes; torch.nn.parallel.distributed since 2.5)."""


@dataclass(frozen=True)
class Gradient:
    """One parameter's gradient: its size, and the part of the backward pass that is over when it is ready."""

    num_bytes: float
    ready_share: float


@dataclass(frozen=True)
class Packing:
    """How gradients are put together for an all-reduce.

    `buckets`: fixed ones that close once they hold `cap_bytes`, the first at `first_bytes` (DDP, TensorFlow). `fusion`:
    what is ready when the stream is free, at most `cap_bytes`; a look every `cycle_s` comes half of that late on
    average (Horovod). `after`: all at once behind the backward pass.
    """

    kind: str
    cap_bytes: float = 25 * MIB
    cycle_s: float = 0.0
    first_bytes: float = FIRST_BUCKET_BYTES


@dataclass(frozen=True)
class Exchange:
    """When communication happened, in seconds after the backward pass began; `largest_bytes` is the largest pack."""

    end_s: float
    busy_s: float
    num_packs: int
    largest_bytes: float


def gradients_in_order(spec: ModelSpec, bytes_per_number: int) -> tuple[Gradient, ...]:
    """The model's gradients as they become ready, first to last.

    A gradient is ready when the operations down to its layer are done; time goes by the operations' number. GPT's
    head comes first in the backward pass, but its matrix is also the embedding, whose gradient is the last one.
    """
    total = forward_flops(spec)
    head = 2 * spec.context * spec.vocabulary * spec.width if isinstance(spec, GptSpec) else 0
    done = float(head)
    found = []
    for tensor in reversed(parameter_table(spec)):
        done += _operations(spec, tensor)
        found.append(Gradient(math.prod(tensor.shape) * bytes_per_number, min(1.0, done / total)))
    return tuple(found)


def _operations(spec: ModelSpec, tensor: TensorSpec) -> float:
    """Forward operations of one sample in which this tensor is multiplied; attention goes with its first product."""
    size = math.prod(tensor.shape)
    if isinstance(spec, ResNetSpec):
        if tensor.kind == "conv":
            return 2.0 * size * _output_side(spec, tensor.name) ** 2
        return 2.0 * size if tensor.kind == "linear_weight" else 0.0
    if tensor.kind not in ("dense_weight", "residual_weight"):
        return 0.0
    attention = 4 * spec.context**2 * spec.width if tensor.name.endswith("c_attn.weight") else 0
    return 2.0 * spec.context * size + attention


def _output_side(spec: ResNetSpec, name: str) -> int:
    """Pixels along a side of what the named convolution puts out."""
    parts = name.split(".")
    halvings = 1
    if parts[0].startswith("layer"):
        stage, block = int(parts[0].removeprefix("layer")), int(parts[1])
        before_the_stride = spec.is_bottleneck and stage > 1 and block == 0 and parts[2] == "conv1"
        halvings = stage + (0 if before_the_stride else 1)
    side = spec.image_size
    for _ in range(halvings):
        side = (side + 1) // 2
    return side


def buckets(gradients: Sequence[Gradient], packing: Packing) -> Iterator[Gradient]:
    """The fixed packs of `buckets` and `after`: each ready with its last gradient."""
    if packing.kind == "after":
        if gradients:
            yield Gradient(sum(gradient.num_bytes for gradient in gradients), 1.0)
        return
    held = 0.0
    cap = min(packing.first_bytes, packing.cap_bytes)
    for gradient in gradients:
        held += gradient.num_bytes
        if held >= cap:
            yield Gradient(held, gradient.ready_share)
            held, cap = 0.0, packing.cap_bytes
    if held:
        yield Gradient(held, gradients[-1].ready_share)


def exchange(
    gradients: Sequence[Gradient],
    packing: Packing,
    backward_s: float,
    all_reduce_s: Callable[[float], float],
) -> Exchange:
    """Send all gradients behind a backward pass of `backward_s`; `all_reduce_s` gives the seconds of a pack's bytes."""
    if packing.kind == "fusion":
        return _fused(gradients, packing, backward_s, all_reduce_s)
    end_s = busy_s = largest = 0.0
    count = 0
    for pack in buckets(gradients, packing):
        cost_s = all_reduce_s(pack.num_bytes)
        end_s = max(end_s, pack.ready_share * backward_s) + cost_s
        busy_s += cost_s
        largest, count = max(largest, pack.num_bytes), count + 1
    return Exchange(end_s, busy_s, count, largest)


def _fused(
    gradients: Sequence[Gradient],
    packing: Packing,
    backward_s: float,
    all_reduce_s: Callable[[float], float],
) -> Exchange:
    """At each look at a free stream all that is ready goes, up to the cap; one that is larger goes alone."""
    end_s = busy_s = largest = 0.0
    count = first = 0
    while first < len(gradients):
        start_s = max(end_s, gradients[first].ready_share * backward_s) + packing.cycle_s / 2
        held, last = gradients[first].num_bytes, first + 1
        while (
            last < len(gradients)
            and gradients[last].ready_share * backward_s <= start_s
            and held + gradients[last].num_bytes <= packing.cap_bytes
        ):
            held += gradients[last].num_bytes
            last += 1
        cost_s = all_reduce_s(held)
        end_s, busy_s = start_s + cost_s, busy_s + cost_s
        largest, count, first = max(largest, held), count + 1, last
    return Exchange(end_s, busy_s, count, largest)


def expected_maximum(workers: int) -> float:
    """Standard deviations by which the slowest of n workers lies above their mean, if their times are normal.

    Blom 1958: the quantile at (n - 0.375) / (n + 0.25); within 0.02 of the exact values, and 0 for one worker.
    """
    return NormalDist().inv_cdf((workers - 0.375) / (workers + 0.25))
