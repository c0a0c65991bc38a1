"""Each Keras layer of ours against the PyTorch layer of the same purpose, where the defaults would differ."""

import numpy as np
import pytest
import tensorflow as tf
import torch
import torch.nn.functional as F

from models.layers_tf import (
    BatchNormalization,
    Conv2D,
    Dense,
    Embedding,
    LayerNormalization,
    attention,
    causal_bias,
    gelu,
    max_pool,
)

TOLERANCES = {"float64": 1e-13, "float32": 2e-5}
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    "shape", [(2, 1, 1, 3), (3, 5, 4, 6)]
)  # the first: two numbers a channel, far from n - 1 = n
def test_batch_norm_equals_pytorch(dtype, jit_compile, shape):
    channels = shape[-1]
    ours = BatchNormalization(channels, epsilon=1e-5, momentum=0.1, dtype=dtype)
    theirs = torch.nn.BatchNorm2d(channels, dtype=getattr(torch, dtype))
    gamma, beta = RNG.uniform(0.5, 2, channels), RNG.standard_normal(channels)
    ours.gamma.assign(gamma)
    ours.beta.assign(beta)
    with torch.no_grad():
        theirs.weight.copy_(torch.from_numpy(gamma))
        theirs.bias.copy_(torch.from_numpy(beta))

    @tf.function(jit_compile=jit_compile)
    def run(x, upstream, training):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = ours(x, training=training)
        return y, *tape.gradient(y, [x, ours.gamma.value, ours.beta.value], upstream)

    tolerance = TOLERANCES[dtype]
    for training in (True, True, False):
        theirs.train(training)
        # Small variances let epsilon show, and a mean far from 0 an unstable variance.
        x = (0.01 * RNG.standard_normal(shape) + 0.1).astype(dtype)
        upstream = RNG.standard_normal(shape).astype(dtype)
        x_torch = torch.from_numpy(x.transpose(0, 3, 1, 2)).requires_grad_()
        y_torch = theirs(x_torch)
        wanted = (x_torch, theirs.weight, theirs.bias)
        gradients = torch.autograd.grad(y_torch, wanted, torch.from_numpy(upstream.transpose(0, 3, 1, 2)))
        y, *gradients_tf = run(tf.constant(x), tf.constant(upstream), training)
        expected = [y_torch, *gradients]
        expected = [t.detach().permute(0, 2, 3, 1) if t.ndim == 4 else t for t in expected]
        for actual, desired in zip([y, *gradients_tf], expected, strict=True):
            scale = max(1.0, float(desired.abs().max()))
            np.testing.assert_allclose(actual.numpy(), desired.numpy(), rtol=0, atol=10 * tolerance * scale)
        np.testing.assert_allclose(ours.moving_mean.numpy(), theirs.running_mean.numpy(), rtol=tolerance)
        np.testing.assert_allclose(ours.moving_variance.numpy(), theirs.running_var.numpy(), rtol=tolerance)


@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("size", [8, 9])
def test_convolutions_pad_like_pytorch(kernel_size, stride, size):
    ours = Conv2D(3, 4, kernel_size, stride, dtype="float64")
    kernel = RNG.standard_normal((kernel_size, kernel_size, 3, 4))
    ours.kernel.assign(kernel)
    x = RNG.standard_normal((2, size, size, 3))
    expected = F.conv2d(
        torch.from_numpy(x.transpose(0, 3, 1, 2)),
        torch.from_numpy(kernel.transpose(3, 2, 0, 1)),
        stride=stride,
        padding=kernel_size // 2,
    )
    np.testing.assert_allclose(ours(tf.constant(x)).numpy(), expected.permute(0, 2, 3, 1).numpy(), atol=1e-13)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("size", [8, 9])
def test_max_pool_pads_with_minus_infinity(size, jit_compile):
    x = RNG.standard_normal((2, size, size, 3)) - 5  # all negative: a padding of zero would win
    expected = F.max_pool2d(torch.from_numpy(x.transpose(0, 3, 1, 2)), 3, stride=2, padding=1)
    pooled = tf.function(max_pool, jit_compile=jit_compile)(tf.constant(x), 3, 2)
    np.testing.assert_array_equal(pooled.numpy(), expected.permute(0, 2, 3, 1).numpy())


def test_layer_norm_equals_pytorch():
    ours = LayerNormalization(16, epsilon=1e-5, dtype="float64")
    x = 0.01 * RNG.standard_normal((2, 3, 16)) + 0.1  # a small variance lets epsilon show
    expected = F.layer_norm(torch.from_numpy(x), [16], eps=1e-5)
    np.testing.assert_allclose(ours(tf.constant(x)).numpy(), expected.numpy(), atol=1e-13)


def test_gelu_is_the_tanh_form_to_the_last_digit():
    x = np.linspace(-6, 6, 1001)
    expected = F.gelu(torch.from_numpy(x), approximate="tanh").numpy()
    np.testing.assert_allclose(gelu(tf.constant(x)).numpy(), expected, rtol=0, atol=3e-15)
    assert (
        np.abs(expected - F.gelu(torch.from_numpy(x)).numpy()).max() > 1e-4
    )  # the exact form is another function


def test_attention_equals_pytorch():
    query, key, value = RNG.standard_normal((3, 2, 3, 7, 5))
    expected = F.scaled_dot_product_attention(*map(torch.from_numpy, (query, key, value)), is_causal=True)
    actual = attention(*map(tf.constant, (query, key, value)), causal_bias(7, tf.float64))
    np.testing.assert_allclose(actual.numpy(), expected.numpy(), atol=1e-14)


def test_softmax_of_half_precision_scores_is_computed_in_float32():
    """Rounded to bfloat16 only once, weights that sum to 1 keep a constant value constant."""
    query, key = (tf.cast(RNG.standard_normal((1, 1, 200, 8)), tf.bfloat16) for _ in range(2))
    graph = tf.function(attention).get_concrete_function(query, key, key, causal_bias(200, tf.float32)).graph
    (softmax,) = (op for op in graph.get_operations() if op.type == "Softmax")
    assert softmax.inputs[0].dtype == tf.float32


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_the_gradient_of_a_bias_is_summed_in_float32(half):
    """The kernel of tf.nn.bias_add's gradient sums in bfloat16 on a CPU: 15 % are lost over 768 rows."""
    layer = Dense(8, 32, dtype=f"mixed_{half}")
    x = tf.cast(RNG.standard_normal((4, 192, 8)), half)
    upstream = tf.cast(RNG.standard_normal((4, 192, 32)) + 1, half)
    with tf.GradientTape() as tape:
        y = layer(x)
    gradient = tape.gradient(y, layer.bias.value, upstream)
    assert (y.dtype, gradient.dtype) == (half, tf.float32)
    exact = tf.cast(upstream, tf.float64).numpy().sum((0, 1))
    one_rounding = {"bfloat16": 2.0**-8, "float16": 2.0**-11}[half]
    np.testing.assert_allclose(gradient.numpy(), exact, rtol=1.01 * one_rounding)


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_gelu_rounds_half_precision_once(half):
    x = torch.linspace(-2, 4, 1001, dtype=torch.float64).to(getattr(torch, half))
    exact = F.gelu(x.double(), approximate="tanh").to(x.dtype)
    ours = gelu(tf.cast(tf.constant(x.double().numpy()), half))
    assert ours.dtype == half
    unequal = tf.cast(ours, tf.float64).numpy() != exact.double().numpy()
    assert unequal.mean() < 0.01  # where float32's own rounding falls between two of them


@pytest.mark.parametrize("jit_compile", [False, True])
def test_embedding_gradient_is_dense_and_repeatable(jit_compile):
    layer = Embedding(50, 64, dtype="float32")
    tokens = tf.constant(RNG.integers(0, 40, (64, 128)), tf.int32)  # rows 40 to 49 get no token
    upstream = tf.constant(RNG.standard_normal((64, 128, 64)), tf.float32)

    @tf.function(jit_compile=jit_compile)
    def gradient():
        with tf.GradientTape() as tape:
            y = layer(tokens)
        return tape.gradient(y, layer.embeddings.value, upstream)

    first = gradient()
    assert isinstance(first, tf.Tensor)  # and not tf.IndexedSlices
    table = torch.zeros((50, 64), dtype=torch.float64, requires_grad=True)
    F.embedding(torch.from_numpy(tokens.numpy()), table).backward(torch.from_numpy(upstream.numpy()).double())
    np.testing.assert_allclose(first.numpy(), table.grad.numpy(), rtol=0, atol=1e-3)
    assert (first.numpy()[40:] == 0).all()
    for _ in range(5):
        np.testing.assert_array_equal(gradient().numpy(), first.numpy())
