"""What the PyTorch scripts share: device and threads, the model, batches on the device, the canonical state."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from inspect import signature

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from distributed import compile_torch
from distributed.devices import warn_of_devices
from distributed.host_memory import keep_freed_memory
from distributed.optimizer_torch import Optimizer, host_copies
from models.layout_torch import named_buffers, named_parameters
from models.losses_torch import correct_count, cross_entropy_sum
from models.resnet_torch import ResNet
from models.specs import GptSpec, ResNetSpec
from models.transformer_torch import GPT
from recipes.recipe import HALF_TYPES
from training.feed import PIXEL_MEAN, PIXEL_STD, Batches
from training.run import Run
from training.state import State

# DDP's switch that leaves BatchNorm's statistics to each worker; torch 2.13 renamed it.
_HAS_NEW_NAME = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
LOCAL_BUFFERS = {"forward_sync_buffers" if _HAS_NEW_NAME else "broadcast_buffers": False}


@dataclass
class Placed:
    """One worker's share of a global batch on its device.

    inputs: [A, m, T] tokens or [A, m, S, S, 3] pixels; targets: [A, m] or [A, m, T]; target_count: over the
    global batch, -1 targets left out.
    """

    inputs: Tensor
    targets: Tensor
    target_count: int

    def micro_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The A micro-batches, in order."""
        return zip(self.inputs, self.targets, strict=True)


def choose_device(run: Run) -> torch.device:
    """The GPU of this process's local rank or, without GPUs, one thread of the CPU.

    Raises UsageError where the recipe wants the model compiled and this machine cannot.
    """
    has_gpu = torch.cuda.is_available()
    warn_of_devices(run.world, has_gpu)
    allows_tf32 = run.recipe.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allows_tf32
    # Sums of products in float32, as TensorFlow has them.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    if has_gpu:
        device = torch.device("cuda", run.world.gpu_index)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        torch.set_num_threads(1)
        if not run.recipe.performance.activation_checkpointing:  # who wants that wants memory first
            keep_freed_memory()
    if _compiles(run):
        compile_torch.check_compiler(device)
    return device


def settings(run: Run, device: torch.device) -> dict:
    """What of PyTorch's state and of the recipe's switches, as they are in effect, changes speed or rounding."""
    performance = run.recipe.performance
    flash_or_formula = "flash" if performance.flash_attention else "formula"
    return {
        "framework": "torch",
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "device_uuid": str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "autocast": HALF_TYPES.get(run.recipe.precision),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "compiled": _compiles(run),
        "fused_optimizer": performance.fused_optimizer,
        "attention": flash_or_formula if isinstance(run.recipe.model, GptSpec) else None,
        "activation_checkpointing": performance.activation_checkpointing,
        "cuda": torch.version.cuda,
    }


def _compiles(run: Run) -> bool:
    return run.recipe.performance.compile and not run.options.eager


class SkipInitialValues(TorchFunctionMode):
    """No time for random values that are replaced at once (the meta device would do too, for 0.5 s of imports)."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        """Called for each of torch's functions; those of torch.nn.init return their tensor as it is."""
        if getattr(function, "__module__", "") == "torch.nn.init":
            return arguments[0] if arguments else (keywords or {})["tensor"]
        return function(*arguments, **(keywords or {}))


def build_model(run: Run, device: torch.device) -> nn.Module:
    """The recipe's model, its weights still unset: `restore` sets them.

    In half precision its forward pass runs under autocast, the losses outside: docs/matching.md has the operations.
    """
    spec, performance = run.recipe.model, run.recipe.performance
    dtype = torch.float64 if run.recipe.precision == "float64" else torch.float32
    with SkipInitialValues():
        again = performance.activation_checkpointing
        if isinstance(spec, ResNetSpec):
            model = ResNet(spec, again).to(device, dtype)
        else:
            model = GPT(spec, again, flash_attention=performance.flash_attention).to(device, dtype)
    if performance.channels_last and isinstance(spec, ResNetSpec):
        model = model.to(memory_format=torch.channels_last)
    if half := HALF_TYPES.get(run.recipe.precision):
        model.forward = torch.autocast(device.type, getattr(torch, half))(model.forward)
    if _compiles(run):
        compile_torch.compile_in_place(model)
    return model


def placement(run: Run, device: torch.device) -> Callable[[Batches], Placed]:
    """The function that moves a batch to the device; a resident (synthetic) one is moved once."""
    resident: list[Placed] = []

    def place(batches: Batches) -> Placed:
        if resident:
            return resident[0]
        (batch,) = batches
        inputs, targets = torch.from_numpy(batch["inputs"]), torch.from_numpy(batch["targets"])
        if device.type == "cuda":  # from pinned memory the copy runs beside the step before
            inputs = inputs.pin_memory().to(device, non_blocking=True)
            targets = targets.pin_memory().to(device, non_blocking=True)
        placed = Placed(inputs, targets, int(batch["target_count"]))
        if run.train_source.resident:
            resident.append(placed)
        return placed

    return place


def prepare(model: nn.Module, inputs: Tensor) -> Tensor:
    """What the model eats: tokens as they are; [m, S, S, 3] pixels as normalised [m, 3, S, S]."""
    if inputs.dtype != torch.uint8:
        return inputs
    weight = next(model.parameters())
    mean, scale = _pixel_statistics(weight.dtype, weight.device)
    images = ((inputs.to(weight.dtype) - mean) * scale).permute(0, 3, 1, 2)
    return images if weight.is_contiguous(memory_format=torch.channels_last) else images.contiguous()


@cache
def _pixel_statistics(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    mean, scale = PIXEL_MEAN, [1.0 / s for s in PIXEL_STD]
    return torch.tensor(mean, dtype=dtype, device=device), torch.tensor(scale, dtype=dtype, device=device)


def loss_sum(model: nn.Module, inputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Forward pass and the sum of the losses over a micro-batch."""
    return compile_torch.loss_of(model)(model(prepare(model, inputs)), targets, label_smoothing)


@torch.inference_mode()
def evaluation_sums(model: nn.Module, feed: Iterator[Batches], device: torch.device) -> Tensor:
    """float64 [3] over this worker's batches: sum of losses, correct, count."""
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    model.eval()
    for (batch,) in feed:
        inputs, targets = (torch.from_numpy(batch[key]).to(device) for key in ("inputs", "targets"))
        logits = model.forward(prepare(model, inputs))  # not compiled: its batches have another size
        sums[0] += cross_entropy_sum(logits, targets, label_smoothing=0.0)
        sums[1] += correct_count(logits, targets)
        sums[2] += (targets >= 0).sum()
    model.train()
    return sums


def contiguous_view(tensor: Tensor) -> Tensor:
    """The same memory as a contiguous tensor, which is all that Horovod takes: NCHW in channels-last order is NHWC."""
    return tensor if tensor.is_contiguous() else tensor.permute(0, 2, 3, 1)


def state_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """All that a worker's state is made of, on its device, for a broadcast."""
    moments = {
        f"{moment}.{name}": t for moment, each in optimizer.moments.items() for name, t in each.items()
    }
    return {**named_parameters(model), **named_buffers(model), **moments}


def export_state(model: nn.Module, optimizer: Optimizer, run: Run, step: int, into: State) -> State | None:
    """The canonical state, copied to host memory by the main process alone; the others get None.

    into: an earlier state that nobody needs any more, or an empty one. Its arrays are used again, which is twice as
        fast as new ones.
    """
    if not run.world.is_main:
        return None
    return State(
        step,
        host_copies(named_parameters(model), into.parameters),
        host_copies(named_buffers(model), into.buffers),
        optimizer.export_moments(into.moments),
        None if optimizer.recorded is None else host_copies(optimizer.recorded, {}),
        None if optimizer.scaler is None else optimizer.scaler.export(),
    )


@torch.no_grad()
def restore_state(model: nn.Module, optimizer: Optimizer, state: State) -> None:
    """The reverse of `export_state`."""
    for tensors, arrays in (
        (named_parameters(model), state.parameters),
        (named_buffers(model), state.buffers),
    ):
        for name, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(arrays[name]))
    optimizer.restore_moments(state.moments, state.updates)
    if optimizer.scaler is not None and state.loss_scale is not None:
        optimizer.scaler.restore(state.loss_scale)
