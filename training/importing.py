"""Weights from elsewhere as a run that has not begun: a canonical checkpoint of step 0, and run.json."""

import hashlib
from pathlib import Path

import numpy as np

from models.specs import buffer_table, parameter_count, parameter_table
from recipes.recipe import Recipe
from telemetry.run_log import write_json
from training import checkpoint
from training.fingerprint import FORMAT
from training.foreign_names import Origin, to_canonical
from training.problems import UsageError
from training.run import is_taken
from training.state import MOMENTS, Arrays, State, initial_loss_scale, parameter_dtype

SAFE, PICKLED = (".safetensors",), (".pt", ".pth", ".bin")
"""Files that hold numbers alone, and files of PyTorch, of which nothing but the numbers is ever loaded."""
NUMPY_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}
"""By safetensors' names. Weights are floats; counts and masks, which are no weights, may be of the other types."""


def check_source(file: Path) -> None:
    """Raises UsageError where this is no file of a kind that is read."""
    if file.suffix not in (*SAFE, *PICKLED):
        raise UsageError(
            f"{file}: found a name that ends in {file.suffix or 'nothing'!r}, expected a file of weights: "
            f"{', '.join((*SAFE, *PICKLED))}"
        )
    if not file.is_file():
        raise UsageError(f"{file}: found no such file, expected one of weights; check the path")


def check_new_directory(run_dir: Path) -> None:
    """Raises UsageError where something lies at `run_dir` already."""
    if is_taken("--out", run_dir):
        raise UsageError(f"--out {run_dir}: exists already; choose another directory")


def read_safetensors(file: Path) -> Arrays:
    """The tensors of a file by name; bfloat16, which NumPy does not know, as float32. Raises UsageError."""
    from safetensors import SafetensorError, deserialize

    arrays = {}
    try:
        for name, tensor in deserialize(file.read_bytes()):
            if tensor["dtype"] == "BF16":  # the upper half of a float32
                values = (np.frombuffer(tensor["data"], "<u2").astype("<u4") << 16).view("<f4")
            else:
                values = np.frombuffer(tensor["data"], NUMPY_TYPES[tensor["dtype"]])
            arrays[name] = values.reshape(tensor["shape"])
    except KeyError as error:
        raise UsageError(f"{file}: found numbers of type {error}, expected F64, F32, F16 or BF16") from error
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{file}: cannot be read as safetensors ({error}); fetch it again") from error
    return arrays


def imported_state(arrays: Arrays, recipe: Recipe, origin: Origin, file: Path) -> State:
    """Step 0 of the recipe with these weights: of its type, and with moments of zero. Raises UsageError."""
    dtype = parameter_dtype(recipe)
    values = {
        name: np.ascontiguousarray(array, dtype)
        for name, array in to_canonical(arrays, recipe.model, origin, file).items()
    }
    parameters = {tensor.name: values[tensor.name] for tensor in parameter_table(recipe.model)}
    moments = {
        moment: {name: np.zeros_like(value) for name, value in parameters.items()}
        for moment in MOMENTS[recipe.optimizer.name]
    }
    buffers = {tensor.name: values[tensor.name] for tensor in buffer_table(recipe.model)}
    return State(0, parameters, buffers, moments, loss_scale=initial_loss_scale(recipe))


def write_run(state: State, recipe: Recipe, run_dir: Path, *, origin: Origin, file: Path) -> None:
    """The run directory from which --resume starts; run.json comes last, and makes it one.

    Raises OSError where the disk refuses.
    """
    with file.open("rb") as content:
        source = {
            "from": origin,
            "file": str(file),
            "sha256": hashlib.file_digest(content, "sha256").hexdigest(),
        }
    run_dir.mkdir(parents=True, exist_ok=True)
    checkpoint.save(
        run_dir / "checkpoints",
        state,
        recipe_id=recipe.recipe_id,
        extra={"tokens": 0, "imported": source},
        keep=recipe.run.keep_checkpoints,
    )
    content_of_run = {
        "format": FORMAT,
        "recipe_id": recipe.recipe_id,
        "recipe": recipe.as_dict(),
        "parameter_count": parameter_count(recipe.model),
        "imported": source,
        "segments": [],  # of no start yet: the first one says with what it trains
    }
    write_json(run_dir / "run.json", content_of_run)
