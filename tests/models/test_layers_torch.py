"""Attention as a formula computes what PyTorch's kernel does, with its softmax in float32."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from models.layers_torch import attention
from models.specs import GptSpec
from models.transformer_torch import GPT


class SoftmaxTypes(TorchDispatchMode):
    """The types that softmax is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ == "_softmax":
            self.seen.append(args[0].dtype)
        return function(*args, **(kwargs or {}))


def test_the_formula_is_the_kernels():
    torch.manual_seed(0)
    ours = [torch.randn(2, 3, 7, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    theirs = [tensor.detach().clone().requires_grad_() for tensor in ours]
    upstream = torch.randn(2, 3, 7, 5, dtype=torch.float64)
    result, expected = attention(*ours), F.scaled_dot_product_attention(*theirs, is_causal=True)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-14)
    result.backward(upstream)
    expected.backward(upstream)
    for tensor, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(tensor.grad, other.grad, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("dtype", "wide"), [("bfloat16", "float32"), ("float16", "float32"), ("float64", "float64")]
)
def test_the_softmax_is_computed_in_float32_at_least(dtype, wide):
    given = [torch.zeros(1, 1, 4, 2, dtype=getattr(torch, dtype)) for _ in range(3)]
    with SoftmaxTypes() as types:
        assert attention(*given).dtype == getattr(torch, dtype)
    assert types.seen == [getattr(torch, wide)]


@pytest.mark.parametrize("flash_attention", [True, False])
def test_the_model_takes_the_one_that_it_is_told(flash_attention):
    model = GPT(GptSpec(2, num_heads=1, width=4, context=4, vocabulary=5), flash_attention=flash_attention)
    with SoftmaxTypes() as types:
        model(torch.zeros((1, 4), dtype=torch.int32))
    assert len(types.seen) == (0 if flash_attention else 2)
