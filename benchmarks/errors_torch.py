"""What PyTorch says of a planted fault, and what it takes to be told where a NaN comes from.

    python -m benchmarks.errors_torch MESSAGES_FOLDER [eager,compile]

The real GPT, with an MLP that goes wrong in one line. A step is forward and backward. Each check is one line of JSON,
and the text that a person would see is in MESSAGES_FOLDER.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import probe
from models import transformer_torch
from models.initial import initial_values
from models.layout_torch import named_parameters
from models.losses_torch import cross_entropy_sum
from models.specs import GptSpec

HERE = Path(__file__)


class WideMLP(transformer_torch.MLP):
    """Its second layer expects one number more than it gets."""

    def __init__(self, spec: GptSpec) -> None:
        super().__init__(spec)
        self.c_proj = nn.Linear(4 * spec.width + 1, spec.width)

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.c_fc(x), approximate="tanh")
        return self.c_proj(h)  # planted: shape


class LogMLP(transformer_torch.MLP):
    """Takes the logarithm of negative numbers."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.c_fc(x)
        h = torch.log(h)  # planted: nan
        return self.c_proj(h)


class MaskedMLP(transformer_torch.MLP):
    """Throws the NaNs of a square root away, but not those of its gradient: the loss stays finite."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.c_fc(x)
        h = torch.where(h > 0, torch.sqrt(h), 0.0)  # planted: nan-gradient
        return self.c_proj(h)


class RaiseAtNaN(TorchDispatchMode):
    """Looks at the result of every operation. Not a part of PyTorch: these lines are what a user writes."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, Tensor) and each.is_floating_point() and torch.isnan(each).any():
                raise FloatingPointError(f"{function} gave a NaN")
        return result


FAULTS = {"shape": WideMLP, "nan": LogMLP, "nan-gradient": MaskedMLP}
DETECTORS: dict[str, Callable[[], AbstractContextManager]] = {
    "none": nullcontext,
    "set_detect_anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "own TorchDispatchMode": RaiseAtNaN,
}
MODES = ("eager", "compile")


def make_step(
    mode: str, mlp: type[nn.Module] = transformer_torch.MLP, spec: GptSpec | None = None
) -> probe.Step:
    """A function without arguments that does one forward and backward pass of a GPT with this MLP."""
    spec = spec or probe.small_gpt()
    with mock.patch.object(transformer_torch, "MLP", mlp):
        model = transformer_torch.GPT(spec)
    with torch.no_grad():
        values = initial_values(spec, probe.SEED)
        for name, parameter in named_parameters(model).items():
            if parameter.shape == values[name].shape:
                parameter.copy_(torch.from_numpy(values[name]))
    batch = torch.from_numpy(probe.tokens(spec, spec.context)).long()
    forward = torch.compile(model) if mode == "compile" else model

    def step() -> None:
        model.zero_grad()
        cross_entropy_sum(forward(batch), batch, 0.0).backward()

    return step


def tell_faults(mode: str, kept: Path) -> None:
    """What is said of each fault, with each detector; a wrong shape needs none."""
    make_step(mode)()  # what a first step has to say is not about the fault
    for fault, mlp in FAULTS.items():
        for detector in DETECTORS if fault != "shape" else ("none",):
            torch._dynamo.reset()
            step = make_step(mode, mlp)

            def watched(step: probe.Step = step, detector: str = detector) -> None:
                with DETECTORS[detector]():
                    step()

            probe.tell_error(HERE, fault, mode, detector, watched, kept)


def tell_slowdowns(mode: str) -> None:
    """What each detector costs a healthy model."""
    spec = probe.gpt("stdlib-gpt")
    plain = make_step(mode, spec=spec)
    for detector, is_on in DETECTORS.items():
        if detector != "none":
            probe.tell_slowdown(mode, detector, is_on, plain, make_step(mode, spec=spec))


def main() -> None:
    """All faults in the modes asked for."""
    torch.set_num_threads(1)
    for mode in sys.argv[2].split(",") if len(sys.argv) > 2 else MODES:
        tell_faults(mode, Path(sys.argv[1]))
        tell_slowdowns(mode)


if __name__ == "__main__":
    main()
