"""What the TensorFlow scripts share: devices and threads, the model, batches on the devices, the canonical state."""

import os
from collections.abc import Callable, Iterator
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the user's keras.json says

import keras
import tensorflow as tf

from distributed.devices import warn_of_devices
from distributed.optimizer_tf import Optimizer, read_canonical, write_canonical
from models.layout_tf import named_buffers, named_variables
from models.losses_tf import correct_count, cross_entropy_sum
from models.resnet_tf import ResNet
from models.specs import GptSpec, ResNetSpec
from models.transformer_tf import GPT
from recipes.recipe import HALF_TYPES
from training.feed import PIXEL_MEAN, PIXEL_STD, Batches
from training.run import Run
from training.state import State

Placed = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
"""inputs [A, m, T] or [A, m, S, S, 3], targets [A, m] or [A, m, T], and the global count of targets; each a value a
replica where a strategy has several."""


def choose_devices(run: Run) -> list[str]:
    """One device for each worker of this process: GPUs or, without one, logical CPUs of one thread each."""
    gpus = tf.config.list_physical_devices("GPU")
    warn_of_devices(run.world, bool(gpus))
    tf.config.experimental.enable_tensor_float_32_execution(run.recipe.precision == "tf32")
    if run.options.eager:
        tf.config.run_functions_eagerly(True)
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    num_devices = len(run.world.worker_ranks)
    if gpus and run.world.num_processes > 1 and num_devices == 1:  # each process sees its own alone
        tf.config.set_visible_devices(gpus[run.world.gpu_index], "GPU")
    if gpus:
        return [f"GPU:{index}" for index in range(num_devices)]
    tf.config.threading.set_intra_op_parallelism_threads(num_devices)
    tf.config.threading.set_inter_op_parallelism_threads(num_devices)
    if num_devices == 1:
        return [
            "CPU:0"
        ]  # asking for logical devices would start TensorFlow, which is to join its cluster first
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * num_devices)
    found = len(tf.config.list_logical_devices("CPU"))
    if found != num_devices:  # MirroredStrategy would claim the replicas that it was asked for all the same
        raise RuntimeError(f"TensorFlow made {found} logical CPUs, expected {num_devices}")
    return [f"CPU:{index}" for index in range(num_devices)]


def settings(run: Run) -> dict:
    """What of TensorFlow's state and of the recipe's switches, as they are in effect, changes speed or rounding."""
    gpus = tf.config.list_physical_devices("GPU")
    details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
    return {
        "framework": "tensorflow",
        "device": "cuda" if gpus else "cpu",
        "device_name": details.get("device_name"),
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "tf32": tf.config.experimental.tensor_float_32_execution_enabled(),
        "policy": _policy(run) if run.recipe.precision in HALF_TYPES else None,
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
        "xla": run.recipe.performance.xla and not run.options.eager,
        "compiled": not run.options.eager,
        "fused_optimizer": True,  # its kernels always are
        "attention": "formula" if isinstance(run.recipe.model, GptSpec) else None,
        "activation_checkpointing": run.recipe.performance.activation_checkpointing,
        "cuda": tf.sysconfig.get_build_info().get("cuda_version"),
    }


def build_model(run: Run) -> keras.Model:
    """The recipe's model, its weights still unset: `restore` sets them."""
    spec, again = run.recipe.model, run.recipe.performance.activation_checkpointing
    if isinstance(spec, ResNetSpec):
        return ResNet(spec, _policy(run), again)
    return GPT(spec, _policy(run), again)


def _policy(run: Run) -> str:
    """Keras's name of the precision; docs/matching.md has the operations."""
    if half := HALF_TYPES.get(run.recipe.precision):
        return f"mixed_{half}"
    return "float64" if run.recipe.precision == "float64" else "float32"


def placement(run: Run) -> Callable[[Batches], Placed]:
    """The function that moves batches to the replicas; a resident (synthetic) one is moved once."""
    strategy = tf.distribute.get_strategy()
    resident: list[Placed] = []

    def place(batches: Batches) -> Placed:
        if resident:
            return resident[0]
        placed = (
            _distribute(strategy, [tf.convert_to_tensor(batch["inputs"]) for batch in batches]),
            _distribute(strategy, [tf.convert_to_tensor(batch["targets"]) for batch in batches]),
            tf.constant(int(batches[0]["target_count"]), tf.float64),
        )
        if run.train_source.resident:
            resident.append(placed)
        return placed

    return place


def _distribute(strategy: tf.distribute.Strategy, values: list[tf.Tensor]) -> Any:
    if strategy.num_replicas_in_sync == 1 and not isinstance(strategy, tf.distribute.MirroredStrategy):
        return values[0]
    return strategy.experimental_distribute_values_from_function(
        lambda context: values[context.replica_id_in_sync_group % len(values)]
    )


def prepare(model: keras.Model, inputs: tf.Tensor) -> tf.Tensor:
    """What the model eats: tokens as they are; [m, S, S, 3] pixels normalised."""
    if inputs.dtype != tf.uint8:
        return inputs
    dtype = tf.as_dtype(model.variable_dtype)
    mean = tf.constant(PIXEL_MEAN, dtype)
    scale = tf.constant([1.0 / s for s in PIXEL_STD], dtype)
    return (tf.cast(inputs, dtype) - mean) * scale


def gradients_function(
    model: keras.Model, run: Run, optimizer: Optimizer
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, list[tf.Tensor]]]:
    """The function (inputs, targets, target_count) -> (loss, gradients): a worker's share, over A micro-batches.

    Forward and backward passes only: XLA, where the recipe wants it, compiles them; collectives stay outside.
    """
    variables = list(named_variables(model).values())
    smoothing = run.recipe.optimizer.label_smoothing

    def micro_batch(inputs, targets, target_count):
        with tf.GradientTape() as tape:
            logits = model(prepare(model, inputs), training=True)
            loss = cross_entropy_sum(logits, targets, smoothing)
            loss = loss / tf.cast(target_count, loss.dtype)
            scaled = optimizer.scaled(loss)
        return loss, [tf.convert_to_tensor(g) for g in tape.gradient(scaled, variables)]

    def accumulate(inputs, targets, target_count):
        if run.accumulation == 1:
            return micro_batch(inputs[0], targets[0], target_count)

        def add(index, loss, sums):
            more, gradients = micro_batch(inputs[index], targets[index], target_count)
            return index + 1, loss + more, [total + g for total, g in zip(sums, gradients, strict=True)]

        zeros = [tf.zeros(v.shape, v.dtype) for v in variables]
        start = (0, tf.zeros([], variables[0].dtype), zeros)
        _, loss, gradients = tf.while_loop(
            lambda index, *_: index < run.accumulation, add, start, parallel_iterations=1
        )
        return loss, gradients

    return (
        tf.function(accumulate, autograph=False, jit_compile=True)
        if run.recipe.performance.xla
        else accumulate
    )


def evaluation_function(model: keras.Model) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """The function (inputs, targets) -> float64 [3]: sum of losses, correct, count over one worker's batch."""

    def sums(inputs, targets):
        logits = model(prepare(model, inputs), training=False)
        loss = cross_entropy_sum(logits, targets, label_smoothing=0.0)
        count = tf.math.count_nonzero(targets >= 0)
        return tf.stack(
            [tf.cast(value, tf.float64) for value in (loss, correct_count(logits, targets), count)]
        )

    return sums


def evaluation_batches(feed: Iterator[Batches]) -> Iterator[tuple[Any, Any]]:
    """Inputs and targets, a value a replica."""
    strategy = tf.distribute.get_strategy()
    for batches in feed:
        yield tuple(
            _distribute(strategy, [tf.convert_to_tensor(batch[key]) for batch in batches])
            for key in ("inputs", "targets")
        )


def state_tensors(model: keras.Model, optimizer: Optimizer) -> dict[str, tf.Variable]:
    """All that a worker's state is made of, on its device, for a broadcast."""
    moments = {
        f"{moment}.{name}": v for moment, each in optimizer.moments.items() for name, v in each.items()
    }
    return {**named_variables(model), **named_buffers(model), **moments}


def export_state(model: keras.Model, optimizer: Optimizer, run: Run, step: int, into: State) -> State | None:
    """The canonical state, copied to host memory by the main process alone; the others get None.

    into: an earlier state that nobody needs any more, or an empty one. Its arrays are used again, which is twice as
        fast as new ones.
    """
    if not run.world.is_main:
        return None
    spec = model.spec
    return State(
        step,
        read_canonical(named_variables(model), spec, into.parameters),
        read_canonical(named_buffers(model), spec, into.buffers),
        optimizer.export_moments(into.moments),
        None if optimizer.recorded is None else read_canonical(optimizer.recorded, spec, {}),
        None if optimizer.scaler is None else optimizer.scaler.export(),
    )


def restore_state(model: keras.Model, optimizer: Optimizer, state: State) -> None:
    """The reverse of `export_state`."""
    write_canonical(named_variables(model), state.parameters, model.spec)
    write_canonical(named_buffers(model), state.buffers, model.spec)
    optimizer.restore_moments(state.moments, state.updates)
    if optimizer.scaler is not None and state.loss_scale is not None:
        optimizer.scaler.restore(state.loss_scale)
