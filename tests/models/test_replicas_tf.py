"""Models under MirroredStrategy on two logical CPUs, accumulating in the graph, with and without XLA.

Logical devices are set before TensorFlow starts, so the work is done in a process of its own: this file, run.
"""

import json
import os
import subprocess
import sys

import pytest

ACCUMULATION = 2
REPLICAS = 2


@pytest.fixture(scope="module")
def differences():
    """By case, worst differences to a model alone that gets a replica's micro-batches.

    Absolute, but gradients relative to the largest.
    """
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    finished = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", ["resnet graph", "resnet recomputed", "resnet xla", "gpt xla"])
def test_replicas_compute_what_one_model_computes_alone(differences, case):
    assert differences[case]["loss"] < 1e-12
    assert differences[case]["gradients"] < 1e-12
    assert differences[case]["updated_parameters"] < 1e-12


@pytest.mark.parametrize("case", ["resnet graph", "resnet recomputed", "resnet xla"])
def test_each_replica_keeps_its_own_statistics_from_every_micro_batch(differences, case):
    assert differences[case]["statistics"] < 1e-12
    assert differences[case]["statistics_apart"] > 1e-3  # they would be equal, had anything averaged them


def main():
    import numpy as np
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * REPLICAS)

    from models.initial import initial_values
    from models.layout_tf import named_buffers, named_variables, to_framework
    from models.losses_tf import cross_entropy_sum
    from models.resnet_tf import ResNet
    from models.specs import GptSpec, ResNetSpec, buffer_table, parameter_table
    from models.transformer_tf import GPT

    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(REPLICAS)])

    def build(make, spec, again=False):
        model = make(spec, "float64", again)
        kinds = {tensor.name: tensor.kind for tensor in parameter_table(spec) + buffer_table(spec)}
        for name, variable in (named_variables(model) | named_buffers(model)).items():
            variable.assign(to_framework(initial_values(spec, 0, np.float64)[name], kinds[name]))
        return model

    def accumulated(model, inputs, targets):
        """Sums of loss and gradients over the micro-batches on the first axis."""
        variables = list(named_variables(model).values())

        def add_micro_batch(i, total, sums):
            with tf.GradientTape() as tape:
                loss = cross_entropy_sum(model(inputs[i], training=True), targets[i], 0.1)
            gradients = tape.gradient(loss, variables)
            return i + 1, total + loss, [s + g for s, g in zip(sums, gradients, strict=True)]

        start = (0, tf.zeros([], tf.float64), [tf.zeros(v.shape, v.dtype) for v in variables])
        return tf.while_loop(lambda i, *_: i < ACCUMULATION, add_micro_batch, start)[1:]

    def compare(make, spec, inputs, targets, jit_compile, again=False):
        with strategy.scope():
            model = build(make, spec, again)
        local = tf.function(lambda x, y: accumulated(model, x, y), jit_compile=jit_compile)

        def replica_step(x, y):
            loss, gradients = local(x, y)
            context = tf.distribute.get_replica_context()
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            for variable, gradient in zip(named_variables(model).values(), gradients, strict=True):
                variable.assign_sub(0.01 * gradient)
            return loss, gradients

        def distributed(array):
            def pick(context):
                return tf.constant(array[context.replica_id_in_sync_group])

            return strategy.experimental_distribute_values_from_function(pick)

        step = tf.function(lambda x, y: strategy.run(replica_step, (x, y)))
        losses, gradients = step(distributed(inputs), distributed(targets))
        losses = [float(loss) for loss in strategy.experimental_local_results(losses)]

        alone = [build(make, spec) for _ in range(REPLICAS)]  # one for each replica's statistics
        expected = [
            accumulated(alone[r], tf.constant(inputs[r]), tf.constant(targets[r])) for r in range(REPLICAS)
        ]
        wanted = [sum(parts) for parts in zip(*(sums for _, sums in expected), strict=True)]
        before = list(named_variables(alone[0]).values())
        local_results = strategy.experimental_local_results
        result = {
            "loss": worst(losses, [float(loss) for loss, _ in expected]),
            "gradients": worst([local_results(g)[1] for g in gradients], wanted)
            / worst(wanted, [0 * g for g in wanted]),
            "updated_parameters": worst(
                [local_results(v)[1] for v in named_variables(model).values()],
                [v - 0.01 * g for v, g in zip(before, wanted, strict=True)],
            ),
        }
        if named_buffers(model):
            statistics = [
                [local_results(b)[r] for b in named_buffers(model).values()] for r in range(REPLICAS)
            ]
            wanted = [list(named_buffers(one).values()) for one in alone]
            result["statistics"] = max(worst(statistics[r], wanted[r]) for r in range(REPLICAS))
            result["statistics_apart"] = worst(statistics[0], statistics[1])
        return result

    def worst(actual, desired):
        return max(
            float(np.abs(np.asarray(a) - np.asarray(d)).max()) for a, d in zip(actual, desired, strict=True)
        )

    rng = np.random.default_rng(0)
    shape = (REPLICAS, ACCUMULATION, 6)
    images = rng.standard_normal((*shape, 32, 32, 3))
    classes = rng.integers(-1, 5, shape).astype(np.int32)
    tokens = rng.integers(0, 11, (*shape, 6)).astype(np.int32)
    results = {}
    resnet = ResNetSpec(10, num_classes=5, image_size=32, width=4)
    results["resnet graph"] = compare(ResNet, resnet, images, classes, jit_compile=False)
    results["resnet recomputed"] = compare(ResNet, resnet, images, classes, jit_compile=False, again=True)
    results["resnet xla"] = compare(ResNet, resnet, images, classes, jit_compile=True)
    gpt = GptSpec(num_layers=1, num_heads=2, width=8, context=6, vocabulary=11)
    results["gpt xla"] = compare(GPT, gpt, tokens, tokens[..., ::-1].copy(), jit_compile=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
