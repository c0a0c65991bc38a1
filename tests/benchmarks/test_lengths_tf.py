import numpy as np
import pytest
import tensorflow as tf

from benchmarks import probe
from benchmarks.lengths_tf import OPEN, make_model
from models.layout_tf import named_variables


def test_a_model_that_takes_any_length_is_the_same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PRECISION", "float64")
    ours, open_one = make_model(is_open=False), make_model(is_open=True)
    random = np.random.default_rng(5)
    for name, variable in named_variables(ours).items():
        variable.assign(random.standard_normal(variable.shape))
        named_variables(open_one)[name].assign(variable)
    traced = tf.function(open_one, autograph=False, input_signature=OPEN)
    for length in (4, 12):
        batch = tf.constant(probe.tokens(probe.small_gpt(), length))
        np.testing.assert_allclose(traced(batch), ours(batch), rtol=1e-12, atol=1e-12)
    assert traced.experimental_get_tracing_count() == 1
