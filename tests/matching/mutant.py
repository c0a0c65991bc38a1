"""Runs strategy scripts one after another in one process, each with a few lines of the code changed.

    python mutant.py JOBS.json RESULTS.json [RANK]                    (RANK is Open MPI's where mpirun starts it)

A job is what `Runs` in conftest.py writes: strategy, arguments, edits, and whether it evaluates. Edits replace text in
the source as `ast.unparse` prints it, so that neither formatting nor a comment can keep a mutation from applying. The
result of a job is null, or why it did not run. Started as a program, so that each framework has a process of its own.
"""

import ast
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import ClassVar

ROOT = Path(__file__).parents[2]
REFERENCE_LIMIT_S = 200
WORKERS = 2
"""Under torch-ddp, where this program is started once for each of them."""

KEPT: list[object] = []
LEAVE: list[Callable[[], None]] = []


class Modules:
    """A finder of our own modules, for one job: those that it changes come from other files.

    AutoGraph reads sources from files, and remembers what it made of a code object, hence the files and the loader.
    """

    def __init__(self, changed: dict[str, Path]) -> None:
        self.changed = changed
        self.packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        file = self.changed.get(name, ROOT / f"{name.replace('.', '/')}.py")
        if name.partition(".")[0] not in self.packages or not file.exists():
            return None
        return spec_from_file_location(name, file, loader=RememberingLoader(name, str(file)))

    def forget(self) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] in self.packages]:
            del sys.modules[name]


class RememberingLoader(SourceFileLoader):
    """Compiles a file once a process."""

    codes: ClassVar[dict[str, CodeType | None]] = {}

    def get_code(self, fullname: str) -> CodeType | None:
        if self.path not in self.codes:
            self.codes[self.path] = super().get_code(fullname)
        return self.codes[self.path]


def mutated_source(path: str, edits: Sequence[tuple[str, str]]) -> str:
    """The source of a file of the repository after its edits. Raises LookupError for one that does not apply."""
    source = ast.unparse(ast.parse((ROOT / path).read_text()))
    for old, new in edits:
        if old not in source:
            raise LookupError(f"{path} no longer has {old!r}; mend the edit in tests/matching/traps.toml")
        source = source.replace(old, new)
    compile(source, path, "exec")
    return source


def run(job: dict, rank: int) -> str | None:
    """One strategy's main(), in modules imported afresh; None, or why it did not run."""
    _wait_for(Path(job["reference"]) if job["reference"] else None)
    finder = Modules({})
    finder.forget()
    sys.meta_path.insert(0, finder)
    try:
        finder.changed = _write_sources(job, rank)
        _prepare(job, rank)
        sys.argv = [job["strategy"], *job["arguments"]]
        code = importlib.import_module(f"distributed.{job['strategy'].replace('-', '_')}").main()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        sys.meta_path.remove(finder)
    return None if code == 0 else next(Path(job["run_dir"]).glob("failure-*.txt")).read_text()


def _write_sources(job: dict, rank: int) -> dict[str, Path]:
    files = {}
    for path in dict.fromkeys(edit["file"] for edit in job["edits"]):
        edits = [(edit["old"], edit["new"]) for edit in job["edits"] if edit["file"] == path]
        name = path.removesuffix(".py").replace("/", ".")
        files[name] = Path(f"{job['run_dir']}-sources") / str(rank) / f"{name}.py"
        files[name].parent.mkdir(parents=True, exist_ok=True)
        files[name].write_text(mutated_source(path, edits))
    return files


def _prepare(job: dict, rank: int) -> None:
    """What differs from a process that runs one script alone."""
    if job["strategy"] == "torch-ddp":
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORKERS, "LOCAL_WORLD_SIZE": WORKERS}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": job["port"]}
        os.environ.update({key: str(value) for key, value in (group | address).items()})
        _keep_groups()
    if job["strategy"].startswith("tf-"):
        _prepare_tensorflow(job["strategy"])
    if job["strategy"].endswith("-horovod"):
        framework = {"torch": "torch", "tf": "tensorflow"}[job["strategy"].partition("-")[0]]
        _stay(importlib.import_module(f"horovod.{framework}"))
    if not job["evaluates"]:
        importlib.import_module("training.loop").Training.evaluate = lambda self: None


def _keep_groups() -> None:
    """Destroyed process groups stay in memory: with the last reference in DDP, freeing one waits for a thread of Gloo's
    that may be waiting for the interpreter's lock, which is ours."""
    import torch.distributed as dist

    destroy = vars(dist).setdefault("_destroy_process_group", dist.destroy_process_group)

    def keep_and_destroy() -> None:
        KEPT.append(dist.group.WORLD)
        destroy()

    dist.destroy_process_group = keep_and_destroy


def _stay(hvd: ModuleType) -> None:
    """MPI starts once a process, so its group stays till the end."""
    if not LEAVE:
        LEAVE.append(hvd.shutdown)
        vars(hvd)["shutdown"] = lambda: None


def _prepare_tensorflow(strategy: str) -> None:
    """What TensorFlow allows once a process: logical CPUs, and a MirroredStrategy (whose collectives have numbers)."""
    toolbox = importlib.import_module("distributed.toolbox_tf")  # the first that a script imports
    import tensorflow as tf

    # Three steps do not repay optimizing the graph.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    tf.distribute.experimental_set_strategy(None)  # that of the run before
    if strategy == "tf-horovod" and not LEAVE:
        return  # the first chooses the device for all
    if strategy in ("tf-single", "tf-horovod"):
        vars(toolbox)["choose_devices"] = lambda run: ["CPU:0"]
    elif "Once" not in tf.distribute.MirroredStrategy.__name__:
        tf.distribute.MirroredStrategy = _made_once(tf.distribute.MirroredStrategy)


def _made_once(kind: type) -> type:
    class Once(kind):
        made = None

        def __new__(cls, devices):
            cls.made = cls.made or super().__new__(cls)
            return cls.made

        def __init__(self, devices):
            if not hasattr(self, "devices_made_for"):
                super().__init__(devices)
                self.devices_made_for = devices

    return Once


def _keras_settings() -> dict | None:
    """What Keras took from the user's keras.json, and what not; None in a process without it."""
    if "keras" not in sys.modules:
        return None
    from keras import config

    return {name: getattr(config, name)() for name in ("backend", "floatx", "epsilon", "image_data_format")}


def _wait_for(reference: Path | None) -> None:
    """Until the torch process beside this one has finished the run that ours starts from."""
    limit = time.monotonic() + REFERENCE_LIMIT_S
    while reference is not None and not _is_done(reference):
        if time.monotonic() > limit:
            raise TimeoutError(f"{reference}: not done after {REFERENCE_LIMIT_S} s")
        time.sleep(0.05)


def _is_done(run_dir: Path) -> bool:
    status = run_dir / "status.json"
    state = json.loads(status.read_text())["state"] if status.exists() else None
    if state == "failed":
        raise RuntimeError(next(run_dir.glob("failure-*.txt")).read_text())
    return state == "completed"


def main() -> None:
    jobs, results = Path(sys.argv[1]), Path(sys.argv[2])
    rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", [*sys.argv, "0"][3]))
    if rank > 0:
        results = results.with_suffix(f".{rank}")
    endings = {}
    for job in json.loads(jobs.read_text()):
        began = time.monotonic()
        endings[job["name"]] = run(job, rank)
        print(f"{job['name']}: {time.monotonic() - began:.1f} s, {endings[job['name']]}", flush=True)
    results.write_text(json.dumps({"errors": endings, "keras": _keras_settings()}))
    for leave in LEAVE:
        leave()
    os._exit(0)  # threads of runs that failed may still wait for each other


if __name__ == "__main__":
    main()
