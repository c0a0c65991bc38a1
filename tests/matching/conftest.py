"""The runs that the traps are judged by: clean ones, and for each trap one in which it is sprung.

A few programs do the work (mutant.py): one for torch-single, one a rank for torch-ddp, one for TensorFlow, and under
mpirun one a rank for each framework's Horovod.
"""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from launchers.commands import option_arguments, startable
from launchers.prefixes import free_port, mpirun_flags
from recipes.recipe import Recipe, load_recipe
from training.options import Options

HERE = Path(__file__).parent
TIME_LIMIT_S = 360
ACCUMULATION = {("resnet", 1): 4, ("resnet", 2): 2, ("resnet", 4): 1, ("gpt", 1): 1, ("gpt", 2): 1}
"""Micro-batches a worker, by recipe and workers: for a ResNet four in all, since BatchNorm sees each of them."""
EVERY_STEP = ("run.checkpoint_every=1", "run.keep_checkpoints=1000")
PEERS = {"tf-mirrored": "clean-torch-ddp-resnet"} | dict.fromkeys(
    ("torch-ddp", "torch-horovod", "tf-horovod"), "clean-tf-mirrored-resnet"
)
HOSTILE_KERAS = {
    "backend": "torch",
    "floatx": "float16",
    "epsilon": 1e-3,
    "image_data_format": "channels_first",
}
"""A keras.json that would change everything, were it heeded."""


@dataclass(frozen=True)
class Done:
    """A run: its directory, its recipe, and why it did not run, if so.

    It is held to the reference, except for BatchNorm's statistics and what is computed with them: those of its peer, a
    clean run of another strategy with as many workers, are the ones to equal.
    """

    folder: Path
    recipe: Recipe
    reference: Path
    peer: Path
    error: str | None


class Runs:
    """All jobs of the programs, run when the first is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text = folder / "text.txt"
        self.text.write_text(_text())
        content = tomllib.loads((HERE / "traps.toml").read_text())
        self.traps, self.variants = content["traps"], content["variants"]
        self.jobs: dict[str, dict] = {}
        self.runs: dict[str, Done] = {}
        self.started = False
        self.keras_settings: dict | None = None
        self._add_all()

    def __getitem__(self, name: str) -> Done:
        if not self.runs:
            assert not self.started, "the runs failed, as the first test that asked for one says"
            self._run_all()
        return self.runs[name]

    def _add_all(self) -> None:
        for recipe in ("gpt", "resnet"):
            self._add(f"reference-{recipe}", "torch-single", recipe, evaluates=True)
        for strategy in ("tf-mirrored", "tf-single", "torch-ddp", "torch-horovod", "tf-horovod"):
            for recipe in ("gpt", "resnet"):
                self._add(f"clean-{strategy}-{recipe}", strategy, recipe, evaluates=strategy != "tf-single")
        for name, variant in self.variants.items():
            self._add(f"reference-{name}", "torch-single", variant["recipe"], variant=name)
            self._add(f"clean-{name}", "tf-single", variant["recipe"], variant=name)
        for name, trap in self.traps.items():
            self._add(name, **{key: value for key, value in trap.items() if key not in ("seen", "error")})

    def _add(
        self,
        name: str,
        strategy: str,
        recipe: str = "resnet",
        *,
        edits: Sequence[dict] = (),
        workers: int | None = None,
        evaluates: bool = False,
        variant: str | None = None,
    ) -> None:
        workers = workers or (1 if strategy.endswith("-single") else 2)
        reference = self.folder / f"reference-{variant or recipe}"
        overrides = (f"data.path={self.text}",) if recipe == "gpt" else ()
        options = Options(
            recipe=str(HERE / f"tiny-{recipe}.toml"),
            run_dir=self.folder / name,
            set=[(*overrides, *(EVERY_STEP if name.startswith("reference-") else ()))],
            accumulation=ACCUMULATION[recipe, workers],
            replay_from=reference,
        )
        self.jobs[name] = {
            "name": name,
            "strategy": strategy,
            "arguments": [*option_arguments(options), "--workers", str(workers)],
            "run_dir": str(options.run_dir),
            "reference": None if name.startswith("reference-") else str(reference),
            "edits": [*(self.variants[variant]["edits"] if variant else ()), *edits],
            "evaluates": evaluates,
            "port": free_port() if strategy == "torch-ddp" else None,
            "recipe": load_recipe(options.recipe or "", options.overrides),
        }

    def _run_all(self) -> None:
        self.started = True
        with ThreadPoolExecutor(2) as pool:
            tensorflow = pool.submit(self._program, "tf-mirrored", "tf-single")
            torch = pool.submit(lambda: self._program("torch-single") | self._program("torch-ddp"))
            errors = torch.result() | tensorflow.result()
        for name in ("torch-horovod", "tf-horovod"):  # one by one: ranks that wait for each other wait busily
            errors |= self._program(name) if "mpirun" in startable(name) else {}
        for name in errors:
            job = self.jobs[name]
            reference = Path(job["reference"] or job["run_dir"])
            peer = PEERS.get(job["strategy"]) if reference.name == "reference-resnet" else None
            self.runs[name] = Done(
                folder=Path(job["run_dir"]),
                recipe=job["recipe"],
                reference=reference,
                peer=self.folder / peer if peer else reference,
                error=errors[name],
            )

    def _program(self, *strategies: str) -> dict[str, str | None]:
        """Run the jobs of these strategies in one process, under torch-ddp in one a worker; returns their errors."""
        jobs = [
            {key: value for key, value in job.items() if key != "recipe"}
            for strategy in strategies
            for job in self.jobs.values()
            if job["strategy"] == strategy
        ]
        files = [self.folder / f"{strategies[0]}-{part}.json" for part in ("jobs", "results")]
        files[0].write_text(json.dumps(jobs))
        ranks = range(2 if strategies == ("torch-ddp",) else 1)
        flags = mpirun_flags(strategies[0], 2)
        launcher = ["mpirun", "-np", "2", *flags] if strategies[0].endswith("-horovod") else []
        programs = [self._start(launcher, files, rank) for rank in ranks]
        try:
            for rank, program in enumerate(programs):
                code = program.wait(timeout=TIME_LIMIT_S)
                assert code == 0, _log(files, rank).read_text()
        finally:
            for program in programs:
                program.kill()
                program.wait()
        results = json.loads(files[1].read_text())
        self.keras_settings = results["keras"] or self.keras_settings
        return results["errors"]

    def _start(self, launcher: list[str], files: list[Path], rank: int) -> subprocess.Popen:
        home = self.folder / "keras-home"
        home.mkdir(exist_ok=True)
        (home / "keras.json").write_text(json.dumps(HOSTILE_KERAS))
        settings = {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        environment = os.environ | settings | {"KERAS_HOME": str(home), "PYTHONPATH": str(HERE.parents[1])}
        environment.pop("KERAS_BACKEND", None)  # it would win over keras.json
        command = [*launcher, sys.executable, str(HERE / "mutant.py"), *map(str, files), str(rank)]
        with _log(files, rank).open("w") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def _log(files: list[Path], rank: int) -> Path:
    return files[0].with_suffix(f".{rank}.log")


def _text() -> str:
    """Paragraphs of very different lengths, so that padding differs from worker to worker."""
    rng = np.random.default_rng(0)
    words = ["".join(chr(97 + letter) for letter in rng.integers(0, 26, size)) for size in range(1, 9)]
    paragraphs = (" ".join(rng.choice(words, length)) for length in rng.integers(1, 12, 337))
    return "\n\n".join(paragraphs) + "\n"


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """The runs by name: those of traps.toml, reference-<recipe>, clean-<strategy>-<recipe>."""
    yield Runs(tmp_path_factory.mktemp("matching"))
