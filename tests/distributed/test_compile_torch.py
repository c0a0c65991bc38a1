"""torch.compile: the same step, compiled once for all steps, and a line where it cannot be. One compilation in all."""

from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.utils import counters

from distributed import compile_torch, toolbox_torch
from models.layout_torch import named_parameters
from models.losses_torch import cross_entropy_sum
from recipes.recipe import load_recipe
from training.problems import UsageError

SMALL = ("model.num_layers=1", "model.width=4", "model.context=8", "model.vocabulary=16")
CPU = torch.device("cpu")
STEPS = 3


def build(*overrides, eager=False):
    recipe = load_recipe("verify-gpt", (*SMALL, *overrides))
    run = SimpleNamespace(recipe=recipe, options=SimpleNamespace(eager=eager))
    model = toolbox_torch.build_model(run, CPU)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model, toolbox_torch.settings(run, CPU)


def trained(model):
    """(losses and gradients of STEPS steps of two micro-batches, evaluations by another batch size)."""
    generator, results, evaluated = torch.Generator().manual_seed(1), [], []
    for _ in range(STEPS):
        model.zero_grad()
        for _ in range(2):
            tokens = torch.randint(0, 16, (3, 8), generator=generator, dtype=torch.int32)
            loss = toolbox_torch.loss_sum(model, tokens, tokens.flip(1), 0.1)
            loss.backward()
            results.append(loss.detach())
        results += [parameter.grad.clone() for parameter in model.parameters()]
        batch = {"inputs": tokens[:2].numpy(), "targets": tokens[:2].numpy()}
        evaluated.append(toolbox_torch.evaluation_sums(model, iter([(batch,)]), CPU))
    return results, evaluated


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of its compiler, of PyTorch
def test_a_compiled_step_is_the_step_and_is_compiled_once():
    compile_torch.check_compiler(CPU)
    counters.clear()
    switches = ("performance.activation_checkpointing=true",)
    model, settings = build("performance.compile=true", *switches)
    plain, _ = build(*switches)
    assert settings["compiled"] and settings["activation_checkpointing"]
    assert list(named_parameters(model)) == list(named_parameters(plain))
    (ours, sums), (theirs, wanted) = trained(model), trained(plain)
    for tensor, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-12, atol=1e-13)
    for numbers, expected in zip(sums, wanted, strict=True):  # evaluated by the model as it is
        assert torch.equal(numbers, expected)
    assert counters["stats"]["unique_graphs"] == 2  # the model and the loss
    assert not counters["graph_break"]


def test_nothing_is_compiled_unless_asked_for():
    for overrides, eager in (((), False), (("performance.compile=true",), True)):
        model, settings = build(*overrides, eager=eager)
        assert not settings["compiled"]
        assert compile_torch.loss_of(model) is cross_entropy_sum
        assert model._compiled_call_impl is None


def test_a_machine_without_a_compiler_is_told_so_in_a_line(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UsageError, match=r"found no C\+\+ compiler \(no-such-compiler\)") as error:
        compile_torch.check_compiler(CPU)
    assert "\n" not in str(error.value)


def test_what_else_is_missing_is_told_in_a_line(monkeypatch):
    def fails(function, dynamic):
        raise RuntimeError("\nPython.h: No such file\n  and many lines more")

    monkeypatch.setattr(torch, "compile", fails)
    monkeypatch.setattr(compile_torch.shutil, "which", lambda name: name)
    with pytest.raises(UsageError, match=r"does not work here \(Python.h: No such file\)") as error:
        compile_torch.check_compiler(CPU)
    assert "\n" not in str(error.value)
