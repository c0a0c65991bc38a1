"""The tensors of a PyTorch file, and nothing else that its pickle may hold, as safetensors.

    python -m distributed.weights_torch FILE OUT

launchers.import_weights starts it for .pt, .pth and .bin, so that no other code of ours ever opens a pickle.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from safetensors.numpy import save_file

from training.options import parse
from training.problems import EXIT_DONE, UsageError
from training.process import guarded


@dataclass
class ConvertOptions:
    """Write the tensors of a PyTorch file as safetensors."""

    file: Annotated[Path, tyro.conf.Positional]
    """A state dict that torch.save wrote."""
    out: Annotated[Path, tyro.conf.Positional]
    """The file to write."""


def read_tensors(file: Path) -> dict[str, np.ndarray]:
    """A state dict's tensors by name; bfloat16, which NumPy does not know, as float32.

    The unpickler builds tensors and plain containers only, and calls nothing else that the file names. Raises
    UsageError where there is more than that, or less.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file may raise anything
        raise UsageError(
            f"{file}: cannot be loaded as weights only ({type(error).__name__}), and a pickle that is more is never "
            "loaded; expected a state dict of tensors; save it again as safetensors where it can be trusted"
        ) from error
    if not isinstance(content, dict) or not content:
        raise UsageError(f"{file}: found a {type(content).__name__}, expected a state dict: tensors by name")
    arrays = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise UsageError(
                f"{file}: found under {name!r} a {type(value).__name__}, expected a state dict: tensors by name alone; "
                "save just that"
            )
        arrays[name] = _as_array(value, f"{file}: {name}")
    return arrays


def _as_array(tensor: torch.Tensor, where: str) -> np.ndarray:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
        raise UsageError(
            f"{where}: found a tensor that is sparse, quantised or complex, expected plain numbers"
        )
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()


def main() -> int:
    """Returns 0; raises UsageError."""
    options = parse(ConvertOptions, "python -m distributed.weights_torch")
    save_file(read_tensors(options.file), options.out)
    return EXIT_DONE


if __name__ == "__main__":
    raise SystemExit(guarded(main))
