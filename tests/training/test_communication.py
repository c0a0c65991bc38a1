import pytest

from recipes.recipe import PerformanceConfig
from training.communication import wire_type


@pytest.mark.parametrize("kind", ["none", "bf16", "fp16"])
def test_gradients_are_rounded_only_where_they_travel(kind: str) -> None:
    performance = PerformanceConfig(gradient_compression=kind)
    assert wire_type(performance, workers=2) == kind
    assert wire_type(performance, workers=1) == "none"
    assert wire_type(performance, workers=2, exchanges=False) == "none"
