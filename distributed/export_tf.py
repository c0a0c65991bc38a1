"""A checkpoint as a Keras file or as a SavedModel. launchers.export starts it; its twin is export_torch.py."""

import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the user's keras.json says

import keras
import numpy as np
import tensorflow as tf

from models import plain_tf
from models.layout_tf import named_buffers, named_variables, to_framework
from models.resnet_tf import ResNet
from models.specs import GptSpec, ModelSpec, buffer_table, parameter_table
from models.transformer_tf import GPT
from training.exporting import Answer, ExportOptions, check_options, read_weights, write_checked
from training.feed import PIXEL_MEAN, PIXEL_STD
from training.options import parse
from training.process import guarded
from training.state import Arrays

SIGNATURE = "serving_default"


def build(spec: ModelSpec, values: Arrays) -> keras.Model:
    """The model that is trained, in float32 with these weights."""
    model = GPT(spec, "float32") if isinstance(spec, GptSpec) else ResNet(spec, "float32")
    variables = {**named_variables(model), **named_buffers(model)}
    for tensor in (*parameter_table(spec), *buffer_table(spec)):
        variables[tensor.name].assign(to_framework(values[tensor.name], tensor.kind))
    return model


def answers(model: keras.Model) -> Answer:
    """Its logits for NumPy inputs, which are normalised as the training scripts do it."""

    def answer(batch: np.ndarray) -> np.ndarray:
        if batch.dtype == np.uint8:
            scale = np.array([1.0 / std for std in PIXEL_STD], np.float32)
            batch = (batch.astype(np.float32) - np.array(PIXEL_MEAN, np.float32)) * scale
        return model(tf.constant(batch), training=False).numpy()

    return answer


def build_plain(spec: ModelSpec, values: Arrays) -> keras.Model:
    """The model that is written: of Keras's own layers, with what is done to its inputs inside."""
    if isinstance(spec, GptSpec):
        return plain_tf.gpt(spec, values)
    return plain_tf.resnet(spec, values, PIXEL_MEAN, PIXEL_STD)


def load_keras(path: Path) -> Answer:
    """What a .keras file computes, read with nothing of ours."""
    model = keras.models.load_model(path, compile=False, safe_mode=True)
    return lambda batch: model(tf.constant(batch), training=False).numpy()


def write_saved_model(model: keras.Model, path: Path) -> None:
    """With one signature: `tokens` or `images` of any number to `logits`."""
    (inputs,) = model.inputs
    holder = tf.Module()
    holder.weights = [variable.value for variable in model.variables]
    function = tf.function(lambda batch: {"logits": model(batch, training=False)}, autograph=False)
    signature = function.get_concrete_function(tf.TensorSpec(inputs.shape, inputs.dtype, name=inputs.name))
    tf.saved_model.save(holder, str(path), signatures={SIGNATURE: signature})


def load_saved_model(path: Path) -> Answer:
    """What the signature of a SavedModel computes."""
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures[SIGNATURE]
    (name,) = signature.structured_input_signature[1]

    def answer(batch: np.ndarray) -> np.ndarray:
        assert loaded is not None  # the signature does not keep its variables alive
        return signature(**{name: tf.constant(batch)})["logits"].numpy()

    return answer


def main() -> int:
    """Returns 0, or 1 where the file does not compute what the model does; raises UsageError."""
    options = parse(ExportOptions, "python -m distributed.export_tf")
    recipe = check_options(options)
    values, step = read_weights(options.checkpoint, recipe)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.set_visible_devices([], "GPU")  # it may be training meanwhile, and would round to TF32
    plain = build_plain(recipe.model, values)

    def write(path: Path) -> None:
        plain.save(path) if options.to == "keras" else write_saved_model(plain, path)

    load = load_keras if options.to == "keras" else load_saved_model
    model = answers(build(recipe.model, values))
    return write_checked(options, recipe.model, step, model=model, write=write, load=load)


if __name__ == "__main__":
    raise SystemExit(guarded(main))
