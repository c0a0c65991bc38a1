"""What both bare loops need that is not training: the samples in memory, and a line of figures a window."""

import json
import os
import resource
import time
from pathlib import Path

import numpy as np

from data.digits import Digits
from data.stdlib import read_stdlib
from data.synthetic import SyntheticImages, SyntheticTokens

RANK_VARIABLES = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "HOROVOD_RANK")
"""Where torchrun, Open MPI, MPICH's kind and horovodrun leave a process's rank."""


def load(recipe: dict) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of every training sample, uint8 [n, S, S, 3] and int32 [n], or uint8 [n, T] twice.

    Of the synthetic source one global batch (its tokens are int32), of which a worker takes the same part at every
    step, as Horovod's synthetic benchmarks do. Raises ValueError for a source that is not embedded.
    """
    source, model, seed = recipe["data"]["source"], recipe["model"], recipe["seed"]
    if source == "digits":
        digits = Digits("train", model["image_size"], model["num_classes"])
        return whole(digits, digits.num_samples)
    if source == "stdlib":
        length = model["context"] + 1
        text = read_stdlib("train").copy()  # torch wants it writable
        windows = np.lib.stride_tricks.sliding_window_view(text, length, writeable=True)[:: length - 1]
        return windows[:, :-1], windows[:, 1:]
    if source == "synthetic" and "image_size" in model:
        images = SyntheticImages("train", model["image_size"], model["num_classes"], seed)
        return whole(images, recipe["data"]["global_batch"])
    if source == "synthetic":
        tokens = SyntheticTokens("train", model["context"], model["vocabulary"], seed)
        return whole(tokens, recipe["data"]["global_batch"])
    raise ValueError(
        f"data.source: found {source!r}, but the bare loops have digits, stdlib and synthetic only"
    )


def whole(
    source: Digits | SyntheticImages | SyntheticTokens, num_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Its first samples as one batch."""
    ids = np.arange(num_samples)
    samples = source.batch(ids, np.zeros_like(ids))
    return samples["inputs"], samples["targets"]


class Windows:
    """Prints one JSON line a window: seconds a step, peak memory, seconds since the process started."""

    def __init__(self) -> None:
        self._started, self._step = time.perf_counter(), 0

    def report(self, step: int, loss: float) -> None:
        """The window that ends with `step`; the next one begins when the line is out."""
        step_time_s = (time.perf_counter() - self._started) / (step - self._step)
        start_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # man 5 proc
        row = {
            "step": step,
            "loss": loss,
            "step_time_s": step_time_s,
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "since_start_s": time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / os.sysconf("SC_CLK_TCK"),
        }
        if all(os.environ.get(name, "0") == "0" for name in RANK_VARIABLES):
            print(json.dumps(row), flush=True)
        self._started, self._step = time.perf_counter(), step
