"""The bare TensorFlow loop that our step is raced against: the same model, trained as a script of one's own would.

    python benchmarks/bare_tf.py recipe.json [workers]                        (2 or more: MirroredStrategy)
    mpirun -np 2 python benchmarks/bare_tf.py recipe.json 2 horovod           (hvd.DistributedGradientTape)

recipe.json: a recipe in the shape of its TOML file. The first window holds the tracing of the tf.function.
"""

import importlib
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as our scripts do, and before TensorFlow is imported
import keras
import numpy as np
import tensorflow as tf

from benchmarks.bare_shared import Windows, load
from models.resnet_tf import ResNet
from models.specs import GptSpec, ResNetSpec
from models.transformer_tf import GPT

recipe = json.loads(Path(sys.argv[1]).read_text())
data, rule, sizes, dtype = recipe["data"], recipe["optimizer"], recipe["model"], recipe["precision"]
is_image = sizes.pop("family") == "resnet"
workers = int(sys.argv[2]) if len(sys.argv) > 2 else 1
# hvd.DistributedOptimizer does not combine gradients under Keras 3.
hvd = importlib.import_module("horovod.tensorflow") if "horovod" in sys.argv else None
if hvd:
    hvd.init()
replicas = 1 if hvd else workers
tf.config.threading.set_intra_op_parallelism_threads(replicas)
tf.config.threading.set_inter_op_parallelism_threads(replicas)
cpus = tf.config.list_physical_devices("CPU")
kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
if kind == "CPU":
    tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * replicas)
devices = [f"{kind}:{index}" for index in range(replicas)]
strategy = tf.distribute.MirroredStrategy(devices) if replicas > 1 else tf.distribute.get_strategy()

inputs, targets = load(recipe)
with strategy.scope():
    model = ResNet(ResNetSpec(**sizes), dtype) if is_image else GPT(GptSpec(**sizes), dtype)
    common = {"weight_decay": rule["weight_decay"] or None, "global_clipnorm": rule["clip_norm"] or None}
    if rule["name"] == "sgd":
        optimizer = keras.optimizers.SGD(rule["learning_rate"], rule["momentum"], **common)
    else:
        optimizer = keras.optimizers.AdamW(rule["learning_rate"], **common)
    for variable in model.trainable_variables:  # our layers start at zero
        if len(variable.shape) > 1:
            variable.assign(keras.random.normal(variable.shape, stddev=0.05, dtype=dtype))
    optimizer.build(model.trainable_variables)
variables = [variable.value for variable in model.trainable_variables]  # Horovod takes TensorFlow's own
if hvd:
    hvd.broadcast_variables(variables, root_rank=0)


share = data["global_batch"] // workers
fixed = tf.constant(inputs[:share]), tf.constant(targets[:share])


def local_batch(_):
    if data["source"] == "synthetic":
        return fixed
    chosen = np.random.randint(len(inputs), size=share)
    return tf.constant(inputs[chosen]), tf.constant(targets[chosen])


def replica_step(inputs, targets):
    inputs = (tf.cast(inputs, dtype) - 127.5) / 64 if is_image else tf.cast(inputs, tf.int32)
    with tf.GradientTape() as tape:
        logits = model(inputs, training=True)
        if rule["label_smoothing"]:
            labels = tf.one_hot(targets, logits.shape[-1], dtype=dtype)
            losses = keras.losses.categorical_crossentropy(labels, logits, True, rule["label_smoothing"])
        else:
            losses = keras.losses.sparse_categorical_crossentropy(targets, logits, True)
        loss = tf.reduce_mean(losses) / replicas
    if hvd:
        tape = hvd.DistributedGradientTape(tape, op=hvd.Average)
    optimizer.apply(tape.gradient(loss, variables), model.trainable_variables)
    return loss


@tf.function(autograph=not hvd)  # AutoGraph would take 20 s over Horovod's functions
def train_step(inputs, targets):
    return strategy.reduce("SUM", strategy.run(replica_step, (inputs, targets)), axis=None)


make_batch = strategy.experimental_distribute_values_from_function
windows = Windows()
for step in range(1, recipe["steps"] + 1):
    loss = train_step(*make_batch(local_batch))
    if step == 1 or step % recipe["run"]["log_every"] == 0:
        windows.report(step, float(loss))
