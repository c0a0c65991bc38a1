"""A checkpoint as PyTorch's state dict or as ONNX. launchers.export starts it; its twin is export_tf.py."""

import importlib
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.layout_torch import named_buffers, named_parameters
from models.resnet_torch import ResNet
from models.specs import GptSpec, ModelSpec
from models.transformer_torch import GPT
from training.exporting import Answer, ExportOptions, Names, check_options, read_weights, write_checked
from training.feed import PIXEL_MEAN, PIXEL_STD
from training.foreign_names import to_canonical, to_foreign
from training.options import parse
from training.process import guarded
from training.state import Arrays

OPSET = 18
"""Of ONNX: what runtimes since the end of 2022 read."""
LARGE_BYTES = 2**30
"""Weights beyond this lie in a second file, NAME.data: an ONNX file itself must stay below 2 GiB."""


class Served(nn.Module):
    """The model with what the training scripts do to its inputs: pixels are normalised and put channels first."""

    def __init__(self, model: nn.Module, takes_pixels: bool) -> None:
        super().__init__()
        self.model, self.takes_pixels = model, takes_pixels
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN))
        self.register_buffer("scale", 1 / torch.tensor(PIXEL_STD))

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs: uint8 pixels [n, S, S, 3] or int32 tokens [n, T]. Returns logits."""
        if self.takes_pixels:
            inputs = ((inputs.to(torch.float32) - self.mean) * self.scale).permute(0, 3, 1, 2)
        return self.model(inputs)


def build(spec: ModelSpec, values: Arrays) -> nn.Module:
    """The model in float32 with these weights, for evaluation."""
    model = GPT(spec) if isinstance(spec, GptSpec) else ResNet(spec)
    with torch.no_grad():
        for name, tensor in {**named_parameters(model), **named_buffers(model)}.items():
            tensor.copy_(torch.from_numpy(values[name]))
    return model.eval()


def answers(model: nn.Module) -> Answer:
    """The model's logits for NumPy inputs."""

    def answer(batch: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(batch)).numpy()

    return answer


def write_state_dict(values: Arrays, spec: ModelSpec, names: Names, path: Path) -> None:
    """A dict of tensors, which torch.load reads with weights_only=True. Equal arrays (a tied head) are one tensor."""
    arrays = values if names == "canonical" else to_foreign(values, spec, names)
    tensors = {id(array): torch.from_numpy(array) for array in arrays.values()}
    torch.save({name: tensors[id(array)] for name, array in arrays.items()}, path)


def load_state_dict(spec: ModelSpec, names: Names, path: Path) -> nn.Module:
    """A new model from such a file. Raises RuntimeError where names or shapes are not the model's."""
    tensors = torch.load(path, weights_only=True)
    if names != "canonical":
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        canonical = to_canonical(arrays, spec, names, path)
        tensors = {name: torch.from_numpy(array) for name, array in canonical.items()}
    model = GPT(spec) if isinstance(spec, GptSpec) else ResNet(spec)
    model.load_state_dict(tensors)  # BatchNorm's count of batches, which nothing reads, may be missing
    return model.eval()


def write_onnx(model: nn.Module, spec: ModelSpec, path: Path) -> None:
    """Inputs `tokens` or `images`, output `logits`; any number of samples, and of tokens up to the context."""
    batch = torch.export.Dim("batch")
    if isinstance(spec, GptSpec):
        name, shape = "tokens", {0: batch, 1: torch.export.Dim("length", max=spec.context)}
        example = torch.zeros((2, spec.context), dtype=torch.int32)
    else:
        name, shape = "images", {0: batch}
        example = torch.zeros((2, spec.image_size, spec.image_size, 3), dtype=torch.uint8)
    size_bytes = sum(tensor.nbytes for tensor in model.state_dict().values())
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which nothing here uses
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # from PyTorch's exporter, of PyTorch
        torch.onnx.export(
            model,
            (example,),
            path,
            input_names=[name],
            output_names=["logits"],
            dynamic_shapes=(shape,),
            opset_version=OPSET,
            dynamo=True,
            external_data=size_bytes > LARGE_BYTES,
            verbose=False,
        )


def load_onnx(path: Path) -> Answer:
    """ONNX Runtime's logits for NumPy inputs, on the CPU."""
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    return lambda batch: session.run(["logits"], {name: batch})[0]


def main() -> int:
    """Returns 0, or 1 where the file does not compute what the model does; raises UsageError."""
    options = parse(ExportOptions, "python -m distributed.export_torch")
    recipe = check_options(options)
    values, step = read_weights(options.checkpoint, recipe)
    torch.set_num_threads(1)
    spec = recipe.model
    takes_pixels = not isinstance(spec, GptSpec)
    model = Served(build(spec, values), takes_pixels).eval()
    if options.to == "onnx":
        return write_checked(
            options,
            spec,
            step,
            model=answers(model),
            write=lambda path: write_onnx(model, spec, path),
            load=load_onnx,
        )
    return write_checked(
        options,
        spec,
        step,
        model=answers(model),
        write=lambda path: write_state_dict(values, spec, options.names, path),
        load=lambda path: answers(Served(load_state_dict(spec, options.names, path), takes_pixels).eval()),
    )


if __name__ == "__main__":
    raise SystemExit(guarded(main))
