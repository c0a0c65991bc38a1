"""What is known of the published runs beside their throughput: hardware, gradients, how they were exchanged.

Facts of data sheets, of the architectures and of the published code, and two assumptions that are the same for all of
them: what part of a data sheet's bandwidth is reached, and the latencies. Nothing here is fitted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.specs import ResNetSpec
from scaling.links import Link, Topology
from scaling.overlap import Gradient, Packing, gradients_in_order

ATTAINED = 0.8
"""The part of a data sheet's bandwidth that is reached, for every link and memory."""
IN_NODE_LATENCY_S, BETWEEN_NODES_LATENCY_S = 5e-6, 10e-6
GIGA = 1e9
LAMB_BYTES_PER_NUMBER = {2: 46, 4: 52}
"""What a step of NVIDIA's fused LAMB moves in memory for each parameter whose gradient has 2 or 4 bytes: gradient
divided in place (4 or 8), its norm (2 or 4), gradient, weight and two moments read (14 or 16), moments and update
written (12), update and weight read (8), weight written (4, and 2 for a float16 copy)."""


@dataclass(frozen=True)
class Setup:
    """What is known of a published run beside its curve.

    `micro_batch`: samples of one forward pass. `update_s`: 0 where one step is one micro-batch, since the computing
    time that is fitted contains it.
    """

    gradients: tuple[Gradient, ...]
    packing: Packing
    topology: Topology
    micro_batch: int
    update_s: float = 0.0


def _topology(in_node_gb_s: float, between_gb_s: float, workers_per_node: int) -> Topology:
    """From data sheets, in GB a second and direction; `between_gb_s` is all of a node's adapters together."""
    return Topology(
        Link(IN_NODE_LATENCY_S, in_node_gb_s * GIGA * ATTAINED),
        Link(BETWEEN_NODES_LATENCY_S, between_gb_s * GIGA * ATTAINED),
        workers_per_node,
    )


def layered_gradients(layers: Sequence[tuple[int, int, int]]) -> tuple[Gradient, ...]:
    """Gradients in float32 as they become ready. Each layer: weights, biases, uses of a weight for one image."""
    total = sum(weights * uses for weights, _, uses in layers)
    found, done = [], 0
    for weights, biases, uses in reversed(layers):
        done += weights * uses
        found += [Gradient(4.0 * biases, done / total), Gradient(4.0 * weights, done / total)]
    return tuple(found)


def vgg16_gradients() -> tuple[Gradient, ...]:
    """VGG-16 at 224 pixels, 138.4 million parameters (Simonyan and Zisserman 2014)."""
    channels = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    sides = (224, 224, 112, 112, 56, 56, 56, 28, 28, 28, 14, 14, 14)
    convolutions = zip(channels[:-1], channels[1:], sides, strict=True)
    layers = [(9 * inside * outside, outside, side**2) for inside, outside, side in convolutions]
    return layered_gradients(
        [*layers, (25088 * 4096, 4096, 1), (4096 * 4096, 4096, 1), (4096 * 1000, 1000, 1)]
    )


def alexnet_gradients() -> tuple[Gradient, ...]:
    """AlexNet in one column, 61.1 million parameters (Krizhevsky 2014, "One weird trick")."""
    return layered_gradients(
        [
            (121 * 3 * 64, 64, 55**2),
            (25 * 64 * 192, 192, 27**2),
            (9 * 192 * 384, 384, 13**2),
            (9 * 384 * 256, 256, 13**2),
            (9 * 256 * 256, 256, 13**2),
            (9216 * 4096, 4096, 1),
            (4096 * 4096, 4096, 1),
            (4096 * 1000, 1000, 1),
        ]
    )


def even_gradients(num_numbers: float, bytes_per_number: int, pieces: int) -> tuple[Gradient, ...]:
    """A model of which only the size is known: equal pieces, ready at equal distances."""
    size = num_numbers * bytes_per_number / pieces
    return tuple(Gradient(size, (piece + 1) / pieces) for piece in range(pieces))


EACH_ALONE = Packing("fusion", cap_bytes=0)
"""tf_cnn_benchmarks exchanges every tensor by itself, as the graph gets to it."""
K80_NODE = _topology(15.75, 1.25, 8)
"""p2.8xlarge: 8 K80 chips on PCIe 3.0 x16, 10 Gb/s between nodes."""
DGX1 = _topology(80, 50, 8)
"""8 P100, each of them with 4 NVLinks of 20 GB/s a direction; 4 adapters of 100 Gb/s."""
DGX_A100 = _topology(300, 200, 8)
"""8 A100, NVLink 300 GB/s a direction; 8 adapters of 200 Gb/s."""
A100_MEMORY_BYTES_PER_S = 2039 * GIGA


def bert(bytes_per_number: int, micro_batch: int) -> Setup:
    """BERT-large, 336 million parameters. The published code exchanges all gradients at once after accumulating.

    (DDP with a bucket as large as the memory, no_sync before; float16 gradients in mixed precision, else float32.)
    """
    num_numbers = 336e6
    moved = num_numbers * LAMB_BYTES_PER_NUMBER[bytes_per_number]
    return Setup(
        even_gradients(num_numbers, bytes_per_number, 1),
        Packing("after"),
        DGX_A100,
        micro_batch,
        moved / (A100_MEMORY_BYTES_PER_S * ATTAINED),
    )


SETUPS: dict[str, Callable[[], Setup]] = {
    "tf-p100-dgx1 vgg16": lambda: Setup(vgg16_gradients(), EACH_ALONE, DGX1, 64),
    "tf-p100-dgx1-b32 vgg16": lambda: Setup(vgg16_gradients(), EACH_ALONE, DGX1, 32),
    "tf-p100-dgx1 alexnet": lambda: Setup(alexnet_gradients(), EACH_ALONE, DGX1, 512),
    "dle-bert-128-amp bert-large-128": lambda: bert(2, 256),
    "dle-bert-128-tf32 bert-large-128": lambda: bert(4, 128),
    "dle-bert-512-amp bert-large-512": lambda: bert(2, 32),
    "dle-bert-512-tf32 bert-large-512": lambda: bert(4, 16),
    # No all-reduces: about as many parameter servers as workers move what a reduce-scatter and an all-gather do.
    "tf-k80-ec2 inception-v3": lambda: Setup(even_gradients(23.8e6, 4, 94), EACH_ALONE, K80_NODE, 64),
    "tf-k80-ec2 resnet50": lambda: Setup(
        gradients_in_order(ResNetSpec(50, 1000, 224), 4), EACH_ALONE, K80_NODE, 64
    ),
}
