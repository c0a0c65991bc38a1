"""A PyTorch model's tensors under canonical names. PyTorch's own names and layouts are the canonical ones."""

from torch import Tensor, nn


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable tensors by canonical name, in the order of specs.parameter_table."""
    return dict(model.named_parameters())


def named_buffers(model: nn.Module) -> dict[str, Tensor]:
    """BatchNorm running statistics by canonical name, in the order of specs.buffer_table.

    PyTorch's num_batches_tracked is no part of the model: with a fixed momentum nothing reads it.
    """
    return {
        name: buffer for name, buffer in model.named_buffers() if not name.endswith("num_batches_tracked")
    }
