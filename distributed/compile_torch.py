"""torch.compile of a model's training pass, and whether this machine can do it at all."""

import os
import shutil
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.losses_torch import cross_entropy_sum
from training.problems import UsageError

INSTEAD = "or leave out performance.compile"


def check_compiler(device: torch.device) -> None:
    """Compile a trifle on the device, so that what is missing shows before training. Takes seconds.

    Raises UsageError: no C++ compiler for a CPU, no C compiler or Triton for a GPU, no headers of Python, no space.
    """
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise UsageError(
            f"performance.compile: found no C++ compiler ({compiler}), which torch.compile needs on a CPU; "
            f"install g++, let CXX name another, {INSTEAD}"
        )
    import torch._inductor.config  # the compiler is imported by runs that compile, and by no others

    if device.type == "cpu":  # a worker is one thread; a GPU's many kernels are left to helpers
        torch._inductor.config.compile_threads = 1
    try:
        torch.compile(lambda x: x + 1, dynamic=False)(torch.zeros(8, device=device))
    except Exception as error:  # the compiler's errors have no class in common
        line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UsageError(
            f"performance.compile: torch.compile does not work here ({line.strip()}); "
            f"install compiler and headers of Python, {INSTEAD}"
        ) from error


def compile_in_place(model: nn.Module) -> None:
    """Compile model(...), forward and backward, on its first call; model.forward(...) stays as it is.

    In place, so that the names of the parameters stay canonical. Under DDP the compiler cuts the backward pass at
    DDP's buckets, and each is exchanged while the rest runs; elsewhere it is one piece, and all gradients are there
    at its end. The sizes of the first call are compiled in; others would be compiled anew.
    """
    # Of the compiler, which looks for a gradient at the logits that the loss is given.
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
    model.compile(dynamic=False)
    model.loss = torch.compile(cross_entropy_sum, dynamic=False)


def loss_of(model: nn.Module) -> Callable[[Tensor, Tensor, float], Tensor]:
    """models.losses_torch.cross_entropy_sum, compiled if the model is. model: ours, or DDP around it."""
    return getattr(getattr(model, "module", model), "loss", cross_entropy_sum)
