"""The bare TensorFlow loop that our step is raced against: the same model, trained as a script of one's own would.

    python benchmarks/bare_tf.py recipe.json [workers]          (2 or more workers: MirroredStrategy)

recipe.json: a recipe in the shape of its TOML file. Prints one JSON line a window of `run.log_every` steps; the
first window holds the tracing of the tf.function.
"""

import json
import os
import resource
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np

os.environ["KERAS_BACKEND"] = "tensorflow"
import keras  # noqa: E402  (the backend is chosen before the import)
import tensorflow as tf  # noqa: E402  (after it, as Keras may import another)

from models.resnet_tf import ResNet  # noqa: E402  (imports Keras)
from models.specs import GptSpec, ResNetSpec  # noqa: E402  (stays with its kin)
from models.transformer_tf import GPT  # noqa: E402  (imports Keras)

recipe = json.loads(Path(sys.argv[1]).read_text())
data, rule, sizes, dtype = recipe["data"], recipe["optimizer"], recipe["model"], recipe["precision"]
is_image = sizes.pop("family") == "resnet"
workers = int(sys.argv[2]) if len(sys.argv) > 2 else 1
tf.config.experimental.enable_tensor_float_32_execution(False)
tf.config.threading.set_intra_op_parallelism_threads(workers)
tf.config.threading.set_inter_op_parallelism_threads(workers)
kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
if kind == "CPU":
    logical = [tf.config.LogicalDeviceConfiguration()] * workers
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], logical)
devices = [f"{kind}:{index}" for index in range(workers)]
strategy = tf.distribute.MirroredStrategy(devices) if workers > 1 else tf.distribute.get_strategy()

# The data, in memory and ready for the model: inputs and targets of all samples.
if data["source"] == "digits":
    table = np.loadtxt(sys.argv[1] + ".csv", delimiter=",")
