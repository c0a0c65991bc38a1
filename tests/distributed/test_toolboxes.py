"""What the toolboxes tell their frameworks of the recipe's precision, and what they write into run.json."""

from types import SimpleNamespace

import pytest
import tensorflow as tf
import torch

from distributed import toolbox_tf, toolbox_torch
from recipes.bounds import PRECISIONS
from recipes.recipe import load_recipe
from training.world import World

SMALL = ("model.num_layers=1", "model.width=4", "model.context=8", "model.vocabulary=16")
HALF = {"bf16": "bfloat16", "fp16": "float16"}
WORLD = World(0, 0, 1, 1, (0,), "direct")


@pytest.fixture
def as_before(monkeypatch):
    """The frameworks' switches are put back, and TensorFlow, which has started, takes no number of threads."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    reduced = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")
    kept = [(matmul, "allow_tf32"), (cudnn, "allow_tf32"), *((matmul, name) for name in reduced)]
    values = [getattr(place, name) for place, name in kept]
    for name in ("set_intra_op_parallelism_threads", "set_inter_op_parallelism_threads"):
        monkeypatch.setattr(tf.config.threading, name, lambda count: None)
    tf32, threads = tf.config.experimental.tensor_float_32_execution_enabled(), torch.get_num_threads()
    yield
    for (place, name), value in zip(kept, values, strict=True):
        setattr(place, name, value)
    torch.set_num_threads(threads)
    tf.config.experimental.enable_tensor_float_32_execution(tf32)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_switches_and_settings_follow_the_recipes_precision(precision, as_before):
    recipe = load_recipe("verify-gpt", (*SMALL, f"precision={precision}"))
    run = SimpleNamespace(recipe=recipe, world=WORLD, options=SimpleNamespace(eager=False))
    device = toolbox_torch.choose_device(run)
    toolbox_tf.choose_devices(run)
    ours, theirs = toolbox_torch.settings(run, device), toolbox_tf.settings(run)
    assert ours["tf32"] == theirs["tf32"] == torch.backends.cudnn.allow_tf32 == (precision == "tf32")
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
    half = HALF.get(precision)
    assert (ours["autocast"], theirs["policy"]) == (half, f"mixed_{half}" if half else None)
    tokens = torch.zeros((1, 8), dtype=torch.int32)
    logits = toolbox_torch.build_model(run, device)(tokens)
    others = toolbox_tf.build_model(run)(tf.constant(tokens.numpy()))
    expected = half or ("float64" if precision == "float64" else "float32")
    assert (str(logits.dtype), others.dtype.name) == (f"torch.{expected}", expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of PyTorch's own compiler
def test_settings_tell_what_of_the_switches_is_in_effect():
    switches = [
        f"performance.{name}" for name in ("activation_checkpointing=true", "xla=true", "compile=true")
    ]
    switches += ["performance.flash_attention=false", "performance.fused_optimizer=false"]
    run = SimpleNamespace(
        recipe=load_recipe("verify-gpt", (*SMALL, *switches)), options=SimpleNamespace(eager=False)
    )
    device = torch.device("cpu")
    ours, theirs = toolbox_torch.settings(run, device), toolbox_tf.settings(run)
    keys = ("compiled", "attention", "fused_optimizer", "activation_checkpointing")
    assert [ours[key] for key in keys] == [True, "formula", False, True]
    assert [theirs[key] for key in keys] == [True, "formula", True, True]
    assert theirs["xla"] and "xla" not in ours
    models = toolbox_torch.build_model(run, device), toolbox_tf.build_model(run)
    assert all(model.activation_checkpointing for model in models)
    assert not models[0].h[0].attn.flash_attention
    run.options.eager = True
    assert not toolbox_torch.settings(run, device)["compiled"]
    theirs = toolbox_tf.settings(run)
    assert not theirs["compiled"] and not theirs["xla"]
    run.recipe = load_recipe("verify-resnet")
    assert toolbox_torch.settings(run, device)["attention"] is toolbox_tf.settings(run)["attention"] is None
