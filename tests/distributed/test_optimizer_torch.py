"""Which of PyTorch's kernels update the parameters; what they compute is held by test_loss_scale.py and verify."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distributed.optimizer_torch import Optimizer
from recipes.recipe import load_recipe
from training.state import MOMENTS


class Kernels(TorchDispatchMode):
    """The names of the kernels that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def after_steps(name, fused):
    """(parameters, the kernels) after three steps, the second one with a norm that is not finite."""
    switch = f"performance.fused_optimizer={str(fused).lower()}"
    recipe = load_recipe("verify-gpt", (f"optimizer.name={name}", "optimizer.clip_norm=0", switch))
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 4).double()
    options = SimpleNamespace(perturb_gradients=None)
    optimizer = Optimizer(model, SimpleNamespace(recipe=recipe, records_gradients=False, options=options))
    zeros = {key: torch.zeros_like(p).detach().numpy() for key, p in optimizer.parameters.items()}
    optimizer.restore_moments(dict.fromkeys(MOMENTS[name], zeros), 0)
    kernels = Kernels()
    for step in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        if step == 1:
            model.bias.grad[2] = torch.nan
        with kernels:
            optimizer.apply(0.1)
    return list(model.parameters()), kernels.names


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_switch_chooses_the_kernels_and_nothing_else(name):
    ours, fused_kernels = after_steps(name, fused=True)
    theirs, kernels = after_steps(name, fused=False)
    assert f"_fused_{name}_" in fused_kernels
    assert not any(kernel.startswith("_fused") for kernel in kernels)
    assert any(kernel.startswith("_foreach_add") for kernel in kernels - fused_kernels)
    for tensor, other in zip(ours, theirs, strict=True):
        assert torch.isfinite(tensor).all()
        torch.testing.assert_close(tensor, other, rtol=1e-14, atol=1e-15)
