"""Write the model of a checkpoint for other programs, load it again and compare it with the model.

python -m launchers.export runs/a --to torch --out model.pt          PyTorch's state dict
python -m launchers.export runs/a --to keras --out model.keras       Keras's own layers, one file
python -m launchers.export runs/a --to savedmodel --out model        a directory that TensorFlow Serving takes
python -m launchers.export runs/a --to onnx --out model.onnx         ONNX

docs/interoperability.md says what goes in and comes out.
"""

from launchers.child import explain, run_child
from launchers.environment import python_of, training_environment
from launchers.modules import check_modules
from training.exporting import ExportOptions, check_options, run_directory
from training.options import parse, warn
from training.problems import EXIT_DONE, EXIT_FAILED, EXIT_USAGE
from training.process import guarded

PROGRAM = "python -m launchers.export"
# By form: whose Python, the modules that it needs, and the extra of setup.cfg that has them.
NEEDS = {
    "torch": ("torch", ("torch",), "torch"),
    "onnx": ("torch", ("torch", "onnx", "onnxscript", "onnxruntime"), "torch,export"),
    "keras": ("tf", ("tensorflow",), "tensorflow"),
    "savedmodel": ("tf", ("tensorflow",), "tensorflow"),
}


def main() -> int:
    """Returns 0; 1 where what was written did not compute what the model does, and was removed; 2 for a mistake."""
    options = parse(ExportOptions, PROGRAM)
    check_options(options)
    framework, modules, extra = NEEDS[options.to]
    python, environment = python_of(framework), training_environment(f"{framework}-single")
    check_modules(python, modules, extra, environment)
    paths = [str(options.checkpoint.absolute()), "--out", str(options.out.absolute())]
    script = ["-m", f"distributed.export_{framework}"]
    code, errors = run_child(
        [*python, *script, *paths, "--to", options.to, "--names", options.names], environment
    )
    if code in (EXIT_DONE, EXIT_FAILED, EXIT_USAGE):
        return code
    warn(f"{options.out}: not written: {explain(code, errors, run_directory(options.checkpoint))}")
    return EXIT_FAILED


if __name__ == "__main__":
    raise SystemExit(guarded(main))
