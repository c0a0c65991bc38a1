"""By which Python, and with which variables, a training command runs."""

import os
import shlex
import sys
from pathlib import Path

from training.problems import UsageError

CHECKOUT = Path(__file__).resolve().parent.parent
PYTHONS = {"torch": "TRIMARAN_TORCH_PYTHON", "tf": "TRIMARAN_TENSORFLOW_PYTHON"}
"""Where torch and TensorFlow live in environments of their own: the command that is Python in each."""


def python_of(strategy: str, given: str | None = None) -> tuple[str, ...]:
    """The words that start Python for a strategy: `given`, or what PYTHONS says, or this interpreter.

    Several words where it lives in a container: apptainer exec --nv torch.sif python.
    """
    variable = PYTHONS[strategy.partition("-")[0]]
    source, text = ("--python", given) if given is not None else (variable, os.environ.get(variable))
    if text is None:
        return (sys.executable,)
    try:
        words = tuple(shlex.split(text))
    except ValueError:
        words = ()
    if not words:
        raise UsageError(f"{source}: found {text!r}, expected a command such as /opt/torch/bin/python")
    return words


def training_environment(strategy: str) -> dict[str, str]:
    """What the command needs beside the caller's environment."""
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
    if "OMP_NUM_THREADS" not in os.environ:
        environment["OMP_NUM_THREADS"] = "1"  # a CPU worker is one core with one thread
    if strategy.startswith("tf-"):
        environment["TF_CPP_MIN_LOG_LEVEL"] = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")
    return environment
