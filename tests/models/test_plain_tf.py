"""The models of Keras's own layers compute in float32 what the trained ones compute."""

import numpy as np
import pytest
import tensorflow as tf

from models import layout_tf, plain_tf, resnet_tf, transformer_tf
from models.initial import initial_values
from models.specs import GptSpec, ResNetSpec, buffer_table, parameter_table

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)


@pytest.mark.parametrize(
    "spec",
    [
        ResNetSpec(10, num_classes=7, image_size=45, width=4),  # odd at every stage but the last two
        ResNetSpec(14, num_classes=7, image_size=64, width=4),
        ResNetSpec(10, num_classes=7, image_size=45, width=4, activation="gelu"),
        GptSpec(num_layers=2, num_heads=2, width=16, context=12, vocabulary=31),
    ],
    ids=["resnet-basic", "resnet-bottleneck", "resnet-gelu", "gpt"],
)
def test_logits_are_those_of_the_trained_model(spec):
    rng = np.random.default_rng(0)
    values = {
        name: 4 * value if value.ndim == 2 else value + rng.uniform(0, 0.2, value.shape).astype(np.float32)
        for name, value in initial_values(spec, 0, np.float32).items()
    }
    if isinstance(spec, GptSpec):
        trained, plain = transformer_tf.GPT(spec, "float32"), plain_tf.gpt(spec, values)
        raw = inputs = rng.integers(0, spec.vocabulary, (3, 12)).astype(np.int32)
    else:
        trained, plain = resnet_tf.ResNet(spec, "float32"), plain_tf.resnet(spec, values, MEAN, STD)
        raw = rng.integers(0, 256, (3, spec.image_size, spec.image_size, 3), np.uint8)
        inputs = ((raw - np.array(MEAN)) / STD).astype(np.float32)
    variables = {**layout_tf.named_variables(trained), **layout_tf.named_buffers(trained)}
    for tensor in (*parameter_table(spec), *buffer_table(spec)):
        variables[tensor.name].assign(layout_tf.to_framework(values[tensor.name], tensor.kind))
    expected = trained(tf.constant(inputs), training=False).numpy()
    found = plain(tf.constant(raw), training=False).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
