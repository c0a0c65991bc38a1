"""What PyTorch can write our models as, and whether the same numbers come out of what is loaded again.

    python -m benchmarks.export_torch FOLDER

verify-gpt and verify-resnet in float32, in evaluation mode.
"""

import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import probe
from models.initial import initial_values
from models.layout_torch import named_buffers, named_parameters
from models.resnet_torch import ResNet
from models.specs import GptSpec, ModelSpec
from models.transformer_torch import GPT


def make_model(spec: ModelSpec) -> nn.Module:
    """With the values that every framework starts from."""
    model = GPT(spec) if isinstance(spec, GptSpec) else ResNet(spec)
    values = initial_values(spec, probe.SEED)
    with torch.no_grad():
        for name, tensor in {**named_parameters(model), **named_buffers(model)}.items():
            tensor.copy_(torch.from_numpy(values[name]))
    return model.eval()


def state_dict(model: nn.Module, inputs: Tensor, path: Path) -> Tensor:
    torch.save(model.state_dict(), path)
    other = type(model)(model.spec).eval()
    other.load_state_dict(torch.load(path, weights_only=True))
    return other(inputs)


def exported_program(model: nn.Module, inputs: Tensor, path: Path) -> Tensor:
    torch.export.save(torch.export.export(model, (inputs,)), path)
    return torch.export.load(path).module()(inputs)


def torchscript(model: nn.Module, inputs: Tensor, path: Path) -> Tensor:
    torch.jit.trace(model, (inputs,)).save(path)
    return torch.jit.load(path)(inputs)


def onnx(model: nn.Module, inputs: Tensor, path: Path) -> np.ndarray:
    torch.onnx.export(model, (inputs,), path, dynamo=True)
    session = importlib.import_module("onnxruntime").InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0]


FORMS: dict[str, Callable[[nn.Module, Tensor, Path], Tensor | np.ndarray]] = {
    "state_dict.pt": state_dict,
    "export.pt2": exported_program,
    "trace.torchscript": torchscript,
    "model.onnx": onnx,
}


@torch.no_grad()
def main() -> None:
    """Both models, all forms."""
    torch.set_num_threads(1)
    gpt, resnet = probe.gpt(), probe.resnet()
    arrays: dict[ModelSpec, np.ndarray] = {gpt: probe.tokens(gpt, gpt.context), resnet: probe.images(resnet)}
    for spec, array in arrays.items():
        batch = torch.from_numpy(array)
        model = make_model(spec)
        expected = model(batch).numpy()
        for form, save_and_load in FORMS.items():
            path = Path(sys.argv[1], f"{spec.family}.{form}")
            probe.tell_export(spec.family, form, expected, path, partial(save_and_load, model, batch))


if __name__ == "__main__":
    main()
