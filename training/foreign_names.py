"""Weights under the names of torchvision's ResNets and of Hugging Face's GPT-2, to canonical ones and back.

torchvision's names and layouts are the canonical ones. Hugging Face's GPT2LMHeadModel puts "transformer." before
them (GPT2Model does not), and its linear layers ("Conv1D") hold [in, out], the transpose of PyTorch's.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.specs import ModelSpec, ResNetSpec, TensorSpec, buffer_table, parameter_table
from training.problems import UsageError
from training.state import Arrays

Origin = Literal["torchvision", "huggingface"]
FAMILIES = {"torchvision": "resnet", "huggingface": "gpt"}
"""Whose names there are for which family of models."""
PREFIX, HEAD, EMBEDDING = "transformer.", "lm_head.weight", "transformer.wte.weight"
# The count that PyTorch's BatchNorm keeps, and masks that older versions of transformers saved beside the weights.
NOT_WEIGHTS = {
    "torchvision": re.compile(r"(.+\.)?num_batches_tracked"),
    "huggingface": re.compile(r"transformer\.h\.\d+\.attn\.(masked_)?bias"),
}


@dataclass(frozen=True)
class Foreign:
    """One tensor: its name elsewhere, what it is here, and whether it lies transposed there."""

    name: str
    tensor: TensorSpec
    transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape there."""
        return self.tensor.shape[::-1] if self.transposed else self.tensor.shape


def foreign_table(spec: ModelSpec, origin: Origin) -> Iterator[Foreign]:
    """Parameters and buffers, in the order of the model; the tied head of a GPT is not listed."""
    for tensor in (*parameter_table(spec), *buffer_table(spec)):
        if origin == "torchvision":
            yield Foreign(tensor.name, tensor, False)
        else:
            transposed = tensor.kind in ("dense_weight", "residual_weight")
            yield Foreign(PREFIX + tensor.name, tensor, transposed)


def check_family(spec: ModelSpec, origin: Origin, option: str) -> None:
    """Raises UsageError, naming the `option`, where `origin` has no such models."""
    if FAMILIES[origin] != spec.family:
        raise UsageError(
            f"{option}: found {origin}, whose names are for a {FAMILIES[origin]}, but the recipe's model is a "
            f"{spec.family}; choose the other or another recipe"
        )
    if isinstance(spec, ResNetSpec) and spec.activation != "relu":
        raise UsageError(
            f"{option}: found {origin}, whose ResNets have ReLUs, but the recipe has model.activation = "
            f"{spec.activation}; choose another recipe"
        )


def to_foreign(values: Arrays, spec: ModelSpec, origin: Origin) -> Arrays:
    """Canonical arrays under the names of `origin`, in its layout; GPT's head is the embedding once more."""
    arrays = {
        each.name: np.ascontiguousarray(values[each.tensor.name].T)
        if each.transposed
        else values[each.tensor.name]
        for each in foreign_table(spec, origin)
    }
    if origin == "huggingface":
        arrays[HEAD] = arrays[EMBEDDING]
    return arrays


def to_canonical(arrays: Arrays, spec: ModelSpec, origin: Origin, where: object) -> Arrays:
    """The reverse: canonical arrays, of the types that the file has.

    Raises UsageError where a tensor is missing, is one too many, has another shape or holds no finite numbers; the
    message names it, and the file as `where`.
    """
    given = dict(arrays)
    if origin == "huggingface" and not any(name.startswith(PREFIX) for name in given):
        given = {name if name == HEAD else PREFIX + name: array for name, array in given.items()}
    given = {name: array for name, array in given.items() if not NOT_WEIGHTS[origin].fullmatch(name)}
    head = given.pop(HEAD, None) if origin == "huggingface" else None
    table = list(foreign_table(spec, origin))
    for each in table:
        if each.name not in given:
            raise UsageError(
                f"{where}: found no tensor {each.name}, expected one of {list(each.shape)}; "
                "choose the recipe of this model"
            )
        _check_tensor(given[each.name], each, where)
    surplus = sorted(set(given) - {each.name for each in table})
    if surplus:
        raise UsageError(
            f"{where}: found a tensor {surplus[0]} of {list(given[surplus[0]].shape)}, which the recipe's model does "
            "not have; choose the recipe of this model"
        )
    if head is not None and not np.array_equal(head, given[EMBEDDING]):
        raise UsageError(
            f"{where}: found in {HEAD} other numbers than in {EMBEDDING}, expected one table for both (a tied head)"
        )
    return {each.tensor.name: given[each.name].T if each.transposed else given[each.name] for each in table}


def _check_tensor(array: np.ndarray, expected: Foreign, where: object) -> None:
    if array.shape != expected.shape:
        raise UsageError(
            f"{where}: found {expected.name} of {list(array.shape)}, expected {list(expected.shape)}; "
            "choose the recipe of this model"
        )
    if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
        raise UsageError(
            f"{where}: found in {expected.name} values of {array.dtype} that are no finite numbers, expected weights"
        )
