"""Make torchvision's ResNet or Hugging Face's GPT-2 weights, from a file, the start of a run.

python -m launchers.import_weights --from torchvision resnet50.pth --recipe resnet50-imagenet --out runs/tuned
python -m distributed.torch_ddp --resume --run-dir runs/tuned …

The file is .safetensors, or PyTorch's .pt, .pth or .bin, of which nothing but tensors is loaded.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from launchers.child import run_quietly
from launchers.environment import python_of, training_environment
from launchers.modules import check_modules
from recipes.recipe import load_recipe
from training.foreign_names import Origin, check_family
from training.importing import (
    PICKLED,
    check_new_directory,
    check_source,
    imported_state,
    read_safetensors,
    write_run,
)
from training.options import Overrides, flattened, parse
from training.problems import EXIT_DONE, UsageError
from training.process import guarded
from training.run import check_disk, check_writable
from training.state import Arrays

PROGRAM = "python -m launchers.import_weights"


@dataclass
class ImportOptions:
    """Make weights from a file the start of a run."""

    file: Annotated[Path, tyro.conf.Positional]
    """A state dict: .safetensors, or PyTorch's .pt, .pth or .bin."""
    origin: Annotated[Origin, tyro.conf.arg(name="from")]
    """Whose names and layout the file has."""
    recipe: str
    """What the run will train: name in recipes/, or path of a .toml file. Its model is that of the file."""
    out: Path
    """Directory of the run. It must not exist."""
    set: Overrides = field(default_factory=list)
    """Override keys of the recipe: --set optimizer.learning_rate=3e-5."""


def main() -> int:
    """Returns 0, or raises UsageError and its kin: then nothing was written."""
    options = parse(ImportOptions, PROGRAM)
    recipe = load_recipe(options.recipe, flattened(options.set))
    check_family(recipe.model, options.origin, "--from")
    check_source(options.file)
    check_new_directory(options.out)
    check_disk(options.out, recipe)
    arrays = read(options.file, check_writable("--out", options.out))
    state = imported_state(arrays, recipe, options.origin, options.file)
    try:
        write_run(state, recipe, options.out, origin=options.origin, file=options.file)
    except OSError as error:
        raise UsageError(
            f"--out {options.out}: {error.strerror}; remove it and choose another place"
        ) from error
    print(
        f"{options.out}: {len(state.parameters)} parameters at step 0; train with --resume --run-dir {options.out}"
    )
    return EXIT_DONE


def read(file: Path, scratch: Path) -> Arrays:
    """The file's tensors by name; a pickle's go through a file in the directory `scratch`. Raises UsageError."""
    if file.suffix not in PICKLED:
        return read_safetensors(file)
    python, environment = python_of("torch-single"), training_environment("torch-single")
    check_modules(python, ["torch"], "torch", environment)
    with tempfile.TemporaryDirectory(prefix=".weights-", dir=scratch) as folder:
        numbers = Path(folder, "weights.safetensors")
        command = [*python, "-m", "distributed.weights_torch", str(file.absolute()), str(numbers)]
        code, why = run_quietly(command, environment, Path(folder))
        if code != EXIT_DONE:
            raise UsageError(why.removeprefix("trimaran: "))
        return read_safetensors(numbers)


if __name__ == "__main__":
    raise SystemExit(guarded(main))
