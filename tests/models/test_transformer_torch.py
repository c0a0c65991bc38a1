"""The PyTorch GPT against its table, PyTorch's operation counter, and Hugging Face's independent one."""

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from models.initial import initial_values
from models.layout_torch import named_buffers, named_parameters
from models.losses_torch import cross_entropy_sum
from models.specs import GPT_SIZES, GptSpec, forward_flops, parameter_count, parameter_table
from models.transformer_torch import GPT


@pytest.mark.parametrize("spec", [*GPT_SIZES.values(), GptSpec(2, 3, 48, 10, 257)])
def test_table_and_cost_are_those_of_the_built_model(spec):
    with torch.device("meta"):
        model = GPT(spec)
        tokens = torch.empty((2, spec.context), dtype=torch.int32)
    built = [(name, tuple(tensor.shape)) for name, tensor in named_parameters(model).items()]
    assert built == [(tensor.name, tensor.shape) for tensor in parameter_table(spec)]
    assert named_buffers(model) == {}
    assert sum(tensor.numel() for tensor in model.parameters()) == parameter_count(spec)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(tokens)
    assert counter.get_total_flops() == 2 * forward_flops(spec)


def test_forward_loss_and_gradients_equal_those_of_hugging_face():
    spec = GptSpec(num_layers=3, num_heads=4, width=64, context=24, vocabulary=101)
    config = GPT2Config(
        n_layer=3, n_head=4, n_embd=64, n_positions=24, vocab_size=101,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="eager",
        bos_token_id=0, eos_token_id=0, loss_type="ForCausalLM",
    )  # fmt: skip
    oracle = GPT2LMHeadModel(config).double().train()
    model = GPT(spec).double()
    values = perturbed(initial_values(spec, seed=0, dtype=np.float64))
    with torch.no_grad():
        for name, tensor in named_parameters(model).items():
            tensor.copy_(torch.from_numpy(values[name]))
    weights = {
        f"transformer.{name}": to_hugging_face(name, tensor) for name, tensor in model.state_dict().items()
    }
    missing, unexpected = oracle.load_state_dict(weights, strict=False)
    assert missing == ["lm_head.weight"]  # tied
    assert not unexpected

    rng = np.random.default_rng(0)
    tokens = torch.tensor(rng.integers(0, 101, (5, 24)))
    targets = tokens.roll(-1, dims=1)
    targets[:, -1] = -1
    targets[0, 10:] = -1  # a padded document
    counted = targets != -1
    logits = model(tokens)
    loss = cross_entropy_sum(logits, targets, label_smoothing=0.0) / int(counted.sum())
    loss.backward()
    labels = torch.where(counted, targets, -100).roll(1, dims=1)  # theirs are shifted within the model
    expected = oracle(tokens, labels=labels)
    chosen = expected.logits[counted].gather(1, targets[counted][:, None])[:, 0]
    expected_loss = (
        expected.logits[counted].logsumexp(dim=1) - chosen
    ).mean()  # theirs is computed in float32
    expected_loss.backward()

    torch.testing.assert_close(logits, expected.logits, rtol=0, atol=1e-13)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-14, atol=0)
    torch.testing.assert_close(loss.float(), expected.loss, rtol=1e-6, atol=0)
    scale = max(float(parameter.grad.abs().max()) for parameter in oracle.parameters())
    for name, parameter in named_parameters(model).items():
        gradient = to_hugging_face(name, oracle.get_parameter(f"transformer.{name}").grad)
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-13 * scale)


def to_hugging_face(name, tensor):
    """Its linear layers are [in, out]; the same transpose leads back."""
    return tensor.T if ".c_" in name and tensor.ndim == 2 else tensor


def perturbed(values):
    """Norms away from 1, biases from 0, and weights large enough for the non-linearities to bend."""
    rng = np.random.default_rng(1)
    return {name: 5 * v if v.ndim == 2 else v + rng.uniform(0, 0.2, v.shape) for name, v in values.items()}


def test_no_token_sees_a_later_one():
    spec = GptSpec(num_layers=2, num_heads=2, width=16, context=12, vocabulary=31)
    model = GPT(spec)
    tokens = torch.arange(12).reshape(1, 12)
    changed = tokens.clone()
    changed[0, 7] = 30
    difference = (model(tokens) - model(changed)).abs().amax(dim=2)[0]
    assert (difference[:7] == 0).all()
    assert (difference[7:] > 0).all()


def test_shorter_samples_than_the_context_are_accepted():
    spec = GptSpec(num_layers=1, num_heads=1, width=8, context=12, vocabulary=31)
    assert GPT(spec)(torch.zeros((2, 5), dtype=torch.int32)).shape == (2, 5, 31)
