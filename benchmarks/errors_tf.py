"""What TensorFlow says of a planted fault, and what it takes to be told where a NaN comes from.

    python -m benchmarks.errors_tf MESSAGES_FOLDER [eager,tf.function,jit_compile]

The twin of errors_torch.py: the same GPT, the same faults. tf.function is without AutoGraph, as in our scripts.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the user's keras.json says

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import tensorflow as tf

from benchmarks import probe
from models import transformer_tf
from models.initial import initial_values
from models.layers_tf import Dense, gelu
from models.layout_tf import named_variables, to_framework
from models.losses_tf import cross_entropy_sum
from models.specs import GptSpec, parameter_table

HERE = Path(__file__)


class WideMLP(transformer_tf.MLP):
    """Its second layer expects one number more than it gets."""

    def __init__(self, spec: GptSpec, *, dtype: str) -> None:
        super().__init__(spec, dtype=dtype)
        self.c_proj = Dense(4 * spec.width + 1, spec.width, dtype=dtype)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        h = gelu(self.c_fc(x))
        return self.c_proj(h)  # planted: shape


class LogMLP(transformer_tf.MLP):
    """Takes the logarithm of negative numbers."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        h = self.c_fc(x)
        h = tf.math.log(h)  # planted: nan
        return self.c_proj(h)


class MaskedMLP(transformer_tf.MLP):
    """Throws the NaNs of a square root away, but not those of its gradient: the loss stays finite."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        h = self.c_fc(x)
        h = tf.where(h > 0, tf.sqrt(h), 0.0)  # planted: nan-gradient
        return self.c_proj(h)


@contextmanager
def check_numerics() -> Iterator[None]:
    """Looks at the result of every operation, for NaNs and infinities alike."""
    tf.debugging.enable_check_numerics()
    try:
        yield
    finally:
        tf.debugging.disable_check_numerics()


def finite_bias(length: int, dtype: tf.DType) -> tf.Tensor:
    """As layers_tf.causal_bias, but -1e9 after a query's own position, which check_numerics lets pass."""
    visible = tf.linalg.band_part(tf.ones([length, length], tf.bool), -1, 0)
    return tf.where(visible, tf.zeros([], dtype), tf.constant(-1e9, dtype))


@contextmanager
def check_numerics_of_finite() -> Iterator[None]:
    """The same for a model without infinities of its own, which ours have in their masks and their padding."""
    with mock.patch.object(transformer_tf, "causal_bias", finite_bias), check_numerics():
        yield


FAULTS = {"shape": WideMLP, "nan": LogMLP, "nan-gradient": MaskedMLP}
DETECTORS: dict[str, Callable[[], AbstractContextManager]] = {
    "none": nullcontext,
    "enable_check_numerics": check_numerics,
    "enable_check_numerics, finite mask": check_numerics_of_finite,
}
MODES = {
    "eager": lambda step: step,
    "tf.function": tf.function(autograph=False),
    "jit_compile": tf.function(autograph=False, jit_compile=True),
}


def make_step(mode: str, mlp: type = transformer_tf.MLP, spec: GptSpec | None = None) -> probe.Step:
    """A function without arguments that does one forward and backward pass of a GPT with this MLP."""
    spec = spec or probe.small_gpt()
    with mock.patch.object(transformer_tf, "MLP", mlp):
        model = transformer_tf.GPT(spec, probe.PRECISION)
    values, variables = initial_values(spec, probe.SEED), named_variables(model)
    for tensor in parameter_table(spec):
        value = to_framework(values[tensor.name], tensor.kind)
        if value.shape == variables[tensor.name].shape:
            variables[tensor.name].assign(value)
    batch = tf.constant(probe.tokens(spec, spec.context))

    @MODES[mode]
    def step():
        with tf.GradientTape() as tape:
            loss = cross_entropy_sum(model(batch, training=True), batch, 0.0)
        return tape.gradient(loss, list(variables.values()))

    return step


def tell_faults(mode: str, kept: Path) -> None:
    """What is said of each fault, with each detector; a wrong shape needs none."""
    make_step(mode)()  # what a first step has to say is not about the fault
    for fault, mlp in FAULTS.items():
        for detector in DETECTORS if fault != "shape" else ("none",):
            step = make_step(mode, mlp)

            def watched(step: probe.Step = step, detector: str = detector) -> None:
                with DETECTORS[detector]():
                    step()

            probe.tell_error(HERE, fault, mode, detector, watched, kept)


def tell_slowdowns(mode: str) -> None:
    """What each detector costs a healthy model."""
    spec = probe.gpt("stdlib-gpt")
    plain = make_step(mode, spec=spec)
    for detector, is_on in DETECTORS.items():
        if detector != "none":
            probe.tell_slowdown(mode, detector, is_on, plain, make_step(mode, spec=spec))


def main() -> None:
    """All faults in the modes asked for."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for mode in sys.argv[2].split(",") if len(sys.argv) > 2 else MODES:
        tell_faults(mode, Path(sys.argv[1]))
        tell_slowdowns(mode)


if __name__ == "__main__":
    main()
