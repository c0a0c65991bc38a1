"""Initial values, made once in NumPy from the seed, so that every framework starts from the same numbers."""

from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from math import prod, sqrt

import numpy as np
from numpy.typing import DTypeLike

from models.specs import GptSpec, ModelSpec, TensorSpec, buffer_table, parameter_table

_GPT2_DEVIATION = 0.02


def initial_values(spec: ModelSpec, seed: int, dtype: DTypeLike = np.float32) -> dict[str, np.ndarray]:
    """Initial parameters and buffers under canonical names, in PyTorch's layout.

    Each tensor has a random stream of its own, keyed by the seed and its name, so that a tensor's values do
    not depend on what else the model holds. Values are drawn in float32 whatever `dtype` is: a float64 run
    starts from exactly the weights of a float32 run.

    ResNet: Kaiming normal over the fan-out for convolutions (He et al. 2015, section 2.2), PyTorch's own
    bounds for the classifier, norms 1 and 0. GPT: normal of deviation 0.02, the two projections into the
    residual stream divided by sqrt(2 x layers) (Radford et al. 2019, section 2.3), biases 0, norms 1 and 0.

    Raises ValueError for a seed that is not in [0, 2**64).
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: found {seed}, expected a whole number from 0 to 2**64 - 1")
    tensors = parameter_table(spec) + buffer_table(spec)
    shapes = {tensor.name: tensor.shape for tensor in tensors}

    def draw(tensor: TensorSpec) -> np.ndarray:
        return _initial_tensor(tensor, spec, shapes, seed).astype(dtype, copy=False)

    with ThreadPoolExecutor() as pool:  # the streams are independent, and NumPy draws without holding the GIL
        return dict(zip(shapes, pool.map(draw, tensors), strict=True))


def _initial_tensor(
    tensor: TensorSpec, spec: ModelSpec, shapes: dict[str, tuple[int, ...]], seed: int
) -> np.ndarray:
    match tensor.kind:
        case "norm_weight" | "running_var":
            return np.ones(tensor.shape, np.float32)
        case "norm_bias" | "dense_bias" | "running_mean":
            return np.zeros(tensor.shape, np.float32)
        case "conv":
            out_channels, _, height, width = tensor.shape
            return _normal(tensor, seed, deviation=sqrt(2 / (out_channels * height * width)))
        case "linear_weight" | "linear_bias":
            weight_name = tensor.name.rpartition(".")[0] + ".weight"
            return _uniform(tensor, seed, bound=1 / sqrt(shapes[weight_name][1]))
        case "embedding" | "dense_weight":
            return _normal(tensor, seed, deviation=_GPT2_DEVIATION)
        case "residual_weight" if isinstance(spec, GptSpec):
            return _normal(tensor, seed, deviation=_GPT2_DEVIATION / sqrt(2 * spec.num_layers))
    raise ValueError(f"{tensor.name}: no initial values for a tensor of kind {tensor.kind!r}")


def _normal(tensor: TensorSpec, seed: int, deviation: float) -> np.ndarray:
    values = _stream(tensor.name, seed).standard_normal(prod(tensor.shape), dtype=np.float32)
    values *= np.float32(deviation)
    return values.reshape(tensor.shape)


def _uniform(tensor: TensorSpec, seed: int, bound: float) -> np.ndarray:
    """Values in [-bound, bound)."""
    values = _stream(tensor.name, seed).random(prod(tensor.shape), dtype=np.float32)
    values *= np.float32(2 * bound)
    values -= np.float32(bound)
    return values.reshape(tensor.shape)


def _stream(name: str, seed: int) -> np.random.Generator:
    """A tensor's own random stream: Philox, keyed by the seed and 64 bits of the name's SHA-256."""
    name_hash = int.from_bytes(sha256(name.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.Philox(key=np.array([seed, name_hash], np.uint64)))
