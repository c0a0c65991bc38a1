"""What TensorFlow can write our models as, and whether the same numbers come out of what is loaded again.

    python -m benchmarks.export_tf FOLDER

The twin of export_torch.py.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the user's keras.json says

import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks import probe
from models.initial import initial_values
from models.layout_tf import named_buffers, named_variables, to_framework
from models.resnet_tf import ResNet
from models.specs import GptSpec, ModelSpec, buffer_table, parameter_table
from models.transformer_tf import GPT


def make_model(spec: ModelSpec) -> keras.Model:
    """With the values that every framework starts from."""
    model = bare_model(spec)
    values, variables = initial_values(spec, probe.SEED), {**named_variables(model), **named_buffers(model)}
    for tensor in parameter_table(spec) + buffer_table(spec):
        variables[tensor.name].assign(to_framework(values[tensor.name], tensor.kind))
    return model


def bare_model(spec: ModelSpec) -> keras.Model:
    """Filled with zeros and ones."""
    return GPT(spec, probe.PRECISION) if isinstance(spec, GptSpec) else ResNet(spec, probe.PRECISION)


def weights(model: keras.Model, inputs: tf.Tensor, path: Path) -> tf.Tensor:
    model.save_weights(path)
    other = bare_model(model.spec)
    other.load_weights(path)
    return other(inputs, training=False)


def keras_file(model: keras.Model, inputs: tf.Tensor, path: Path) -> tf.Tensor:
    model.save(path)
    other = keras.models.load_model(path, custom_objects={type(model).__name__: type(model)})
    return other(inputs, training=False)


def saved_model(model: keras.Model, inputs: tf.Tensor, path: Path) -> tf.Tensor:
    tf.saved_model.save(model, str(path), signatures=inference(model, inputs))
    (outputs,) = tf.saved_model.load(str(path)).signatures["serving_default"](inputs).values()
    return outputs


def tflite(model: keras.Model, inputs: tf.Tensor, path: Path) -> np.ndarray:
    return through_tflite(inference(model, inputs), model, inputs, path)


def frozen_tflite(model: keras.Model, inputs: tf.Tensor, path: Path) -> np.ndarray:
    """With the variables as constants: only then do they get into the file."""
    constants = importlib.import_module("tensorflow.python.framework.convert_to_constants")
    frozen = constants.convert_variables_to_constants_v2(inference(model, inputs))
    return through_tflite(frozen, model, inputs, path)


def through_tflite(function: Any, model: keras.Model, inputs: tf.Tensor, path: Path) -> np.ndarray:
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([function], model).convert())
    reader = tf.lite.Interpreter(str(path), num_threads=1)
    reader.allocate_tensors()
    reader.set_tensor(reader.get_input_details()[0]["index"], inputs.numpy())
    reader.invoke()
    return reader.get_tensor(reader.get_output_details()[0]["index"])


def onnx(model: keras.Model, inputs: tf.Tensor, path: Path) -> np.ndarray:
    converter = importlib.import_module("tf2onnx").convert
    signature = [tf.TensorSpec(inputs.shape, inputs.dtype)]
    converter.from_function(partial(model, training=False), signature, output_path=str(path))
    session = importlib.import_module("onnxruntime").InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0]


def inference(model: keras.Model, inputs: tf.Tensor) -> Any:
    """The model without training, traced for inputs of this shape."""
    function = tf.function(partial(model, training=False), autograph=False)
    return function.get_concrete_function(tf.TensorSpec(inputs.shape, inputs.dtype))


FORMS: dict[str, Callable[[keras.Model, tf.Tensor, Path], tf.Tensor | np.ndarray]] = {
    "weights.h5": weights,
    "model.keras": keras_file,
    "SavedModel": saved_model,
    "model.tflite": tflite,
    "frozen.tflite": frozen_tflite,
    "model.onnx": onnx,
}


def main() -> None:
    """Both models, all forms."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    gpt, resnet = probe.gpt(), probe.resnet()
    pixels = probe.images(resnet).transpose(0, 2, 3, 1)
    for spec, array in ((gpt, probe.tokens(gpt, gpt.context)), (resnet, pixels)):
        model, batch = make_model(spec), tf.constant(array)
        expected = model(batch, training=False).numpy()
        for form, save_and_load in FORMS.items():
            path = Path(sys.argv[1], f"{spec.family}.{form}")
            probe.tell_export(spec.family, form, expected, path, partial(save_and_load, model, batch))


if __name__ == "__main__":
    main()
