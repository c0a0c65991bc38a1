"""What batches of eight different lengths cost in PyTorch: recompilations, and the time of a pass over the lengths.

    python -m benchmarks.lengths_torch [eager,compile,…]

A step is forward and backward through one layer of verify-gpt. compile uses Inductor if there is a C++ compiler.
"""

import shutil
import sys

import torch
from torch._dynamo.utils import counters

from benchmarks import probe
from models.losses_torch import cross_entropy_sum
from models.transformer_torch import GPT

BACKEND = "inductor" if shutil.which("g++") or shutil.which("clang++") else "aot_eager"
MODES: dict[str, dict | None] = {
    "eager": None,
    "compile": {"backend": BACKEND},
    "compile(dynamic=True)": {"backend": BACKEND, "dynamic": True},
    "compile(dynamic=False)": {"backend": BACKEND, "dynamic": False},
    # The same decisions without code generation: how often it compiles is not a matter of the backend.
    "compile, aot_eager": {"backend": "aot_eager"},
    "compile(dynamic=True), aot_eager": {"backend": "aot_eager", "dynamic": True},
    "compile(dynamic=False), aot_eager": {"backend": "aot_eager", "dynamic": False},
}


def tell_mode(mode: str) -> None:
    """All passes in one mode."""
    torch._dynamo.reset()
    counters.clear()
    spec, options = probe.small_gpt(), MODES[mode]
    model = GPT(spec)
    forward = model if options is None else torch.compile(model, **options)

    def step(length: int) -> None:
        batch = torch.from_numpy(probe.tokens(spec, length)).long()
        model.zero_grad()
        cross_entropy_sum(forward(batch), batch, 0.0).backward()

    probe.tell_lengths(mode, step, lambda: counters["stats"]["unique_graphs"] if options else None)


def main() -> None:
    """The modes asked for, or all."""
    torch.set_num_threads(1)
    for mode in sys.argv[1].split(";") if len(sys.argv) > 1 else MODES:
        tell_mode(mode)


if __name__ == "__main__":
    main()
