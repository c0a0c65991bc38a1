"""What every test of a fault needs: real runs that bear a mark, to be disturbed, resumed and compared."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest

from launchers.child import ranks_of
from telemetry.run_log import read_rows
from training import checkpoint
from training.state import State

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "distributed"
RESNET, GPT = (("--recipe", str(TINY / f"tiny-{family}.toml")) for family in ("resnet", "gpt"))
WORKERS = {
    "torch-single": 1,
    "torch-ddp": 2,
    "torch-horovod": 2,
    "tf-single": 1,
    "tf-mirrored": 2,
    "tf-horovod": 2,
}
"""Every strategy, with the workers of its runs here."""
PROCESSES = {**WORKERS, "tf-mirrored": 1}
LAUNCHERS = ("torch-ddp", "torch-horovod", "tf-horovod")
"""The strategies whose launcher starts several ranks."""
EXACT = ("step", "loss", "learning_rate", "grad_norm", "sample_digest", "samples", "tokens")
THEIR_OWN = re.compile(
    r"Traceback \(most recent call last\):\n(?:  .*\n)+torch\.distributed\.elastic\..*ChildFailedError"
)
"""What torchrun itself says, whatever the ranks do."""
STARTS_S = 120.0
ENDS_S = 60.0
GONE_S = 15.0
"""How long a run may take to start, to end, and to leave no process behind."""


def case(strategy: str, *values: object, quick: bool = False, name: str | None = None):
    """One parametrized case: `make test` takes the quick ones, `make faults` all."""
    marks = [pytest.mark.horovod] if strategy.endswith("horovod") else []
    marks += [] if quick else [pytest.mark.faults_all]
    return pytest.param(strategy, *values, marks=marks, id=name or strategy)


def each_strategy(*quick: str, of: Sequence[str] = tuple(WORKERS)):
    """A case for each strategy of `of`."""
    return pytest.mark.parametrize("strategy", [case(name, quick=name in quick) for name in of])


def command(strategy: str, *arguments: str, workers: int | None = None) -> tuple[str, ...]:
    """What follows `python -m` to train under this strategy."""
    return ("launchers.train", strategy, "--workers", str(workers or WORKERS[strategy]), *arguments)


def recipe_of(strategy: str) -> tuple[str, str]:
    """The ResNet under torch; the GPT under TensorFlow, which would trace the ResNet for longer."""
    return GPT if strategy.startswith("tf-") else RESNET


def long_run(strategy: str, steps: int = 1_000_000, every: int = 3) -> tuple[str, ...]:
    """A run that logs every step, saves every few, and does not end before it is disturbed."""
    given = ("run.log_every=1", f"run.checkpoint_every={every}", "run.eval_every=-1")
    return command(strategy, *recipe_of(strategy), "--set", f"steps={steps}", *given)


class Started:
    """A run, every process of which bears its mark.

    prefix: words before the interpreter. seen: where we find a run directory that is mounted for the run alone.
    screen: the name under which its words on the screen are kept, beside the run directory unless told otherwise.
    """

    def __init__(
        self,
        run_dir: Path,
        *words: str,
        seen: Path | None = None,
        prefix: Sequence[str] = (),
        screen: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        shown = screen or run_dir
        self.run_dir, self.mark = seen or run_dir, f"{os.getpid()}-{shown}"
        self.errors_path, self.output_path = Path(f"{shown}.errors"), Path(f"{shown}.output")
        mine = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "TRIMARAN_TEST": self.mark}
        self._files = (
            self.output_path.open("wb"),
            self.errors_path.open("wb"),
        )  # not pipes, which a helper could hold open
        self.launcher = subprocess.Popen(
            [*prefix, sys.executable, "-m", *words, "--run-dir", str(run_dir)],
            env={**os.environ, **mine, **(environment or {})},
            stdout=self._files[0],
            stderr=self._files[1],
            start_new_session=True,
        )

    @property
    def errors(self) -> str:
        """Standard error so far, without what a framework says of itself."""
        return self.errors_path.read_text(errors="replace")

    @property
    def said(self) -> str:
        """All that it said on the screen so far."""
        return self.output_path.read_text(errors="replace") + self.errors

    @property
    def told(self) -> list[str]:
        """Our own lines of it."""
        return [line for line in self.errors.splitlines() if line.startswith("trimaran: ")]

    def rows(self) -> list[dict]:
        """The training rows that are written."""
        path = self.run_dir / "metrics.jsonl"
        return [row for row in read_rows(path) if "loss" in row] if path.exists() else []

    def wait_for(self, happened: Callable[[], object], seconds: float = STARTS_S) -> None:
        """Until it has happened, while the run lives."""
        end = time.monotonic() + seconds
        while not happened():
            assert self.launcher.poll() is None, self.errors
            assert time.monotonic() < end, self.errors
            time.sleep(0.02)

    def wait_for_step(self, step: int) -> None:
        """Until this step is logged."""
        self.wait_for(lambda: (rows := self.rows()) and rows[-1]["step"] >= step)

    def processes(self) -> list[psutil.Process]:
        """All that live."""
        found = psutil.process_iter(["environ", "status"])
        return [
            process
            for process in found
            if (process.info["environ"] or {}).get("TRIMARAN_TEST") == self.mark
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ]

    def ranks(self) -> dict[int, psutil.Process]:
        """The training processes by rank; one that has no launcher of its own is rank 0."""
        names = ("RANK", "OMPI_COMM_WORLD_RANK", "HOROVOD_RANK")
        found = {}
        for process in ranks_of(self.launcher.pid):
            environment = process.environ()
            found[next((int(environment[name]) for name in names if name in environment), 0)] = process
        return found

    def code(self, seconds: float = ENDS_S) -> int:
        """How it ended; no process of it is left."""
        self.launcher.wait(seconds)
        self.assert_gone()
        return self.launcher.returncode

    def assert_gone(self, seconds: float = GONE_S) -> None:
        """Every process of it ends soon."""
        end = time.monotonic() + seconds
        while left := self.processes():
            assert time.monotonic() < end, [(process.pid, process.cmdline()) for process in left]
            time.sleep(0.05)

    def kill(self) -> None:
        """The end of it, whatever went wrong."""
        while left := self.processes():
            for process in left:
                process.kill()
            psutil.wait_procs(left, timeout=1)
        self.launcher.wait()
        for file in self._files:
            file.close()

    def status(self) -> dict:
        """status.json."""
        return json.loads((self.run_dir / "status.json").read_text())

    def saved(self) -> list[int]:
        """The steps of the published checkpoints."""
        return checkpoint.complete_steps(self.run_dir / "checkpoints")

    def state(self, step: int | None = None) -> State:
        """What a checkpoint holds, every digest checked; the newest unless told otherwise."""
        step = self.saved()[-1] if step is None else step
        return checkpoint.load(self.run_dir / "checkpoints" / f"step-{step:08d}")[0]

    def assert_fails(self, seconds: float = ENDS_S) -> str:
        """It ends with 1 and without a traceback on the screen; returns the last line."""
        assert self.code(seconds) == 1, self.errors
        assert self.told, self.errors
        assert "Traceback" not in THEIR_OWN.sub("", self.errors), self.errors
        return self.told[-1]


Start = Callable[..., Started]


def exact(rows: Sequence[dict]) -> list[dict]:
    """What does not hang on the clock."""
    return [{key: row[key] for key in EXACT} for row in rows]


def assert_same(ours: Started, undisturbed: Started) -> None:
    """Every row, and the last checkpoint, to the last bit. A resumed run also reports its first step."""
    expected = exact(undisturbed.rows())
    steps = {row["step"] for row in expected}
    assert [row for row in exact(ours.rows()) if row["step"] in steps] == expected
    assert ours.saved()[-1] == undisturbed.saved()[-1]
    mine, other = ours.state(), undisturbed.state()
    for first, second in [
        (mine.parameters, other.parameters),
        (mine.buffers, other.buffers),
        *((mine.moments[name], other.moments[name]) for name in other.moments),
    ]:
        assert first.keys() == second.keys()
        for name, value in second.items():
            np.testing.assert_array_equal(first[name], value, err_msg=name)


def assert_near(ours: Started, undisturbed: Started) -> None:
    """The trajectory tolerances: losses within 1e-9 relative, final parameters within 1e-8."""
    mine, other = ours.rows(), undisturbed.rows()
    assert [row["step"] for row in mine] == [row["step"] for row in other]
    for row, expected in zip(mine, other, strict=True):
        assert row["sample_digest"] == expected["sample_digest"]
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-9, abs=0), row["step"]
    assert ours.saved()[-1] == undisturbed.saved()[-1]
    for name, value in undisturbed.state().parameters.items():
        np.testing.assert_allclose(ours.state().parameters[name], value, rtol=0, atol=1e-8, err_msg=name)


def drawn(seed: int) -> random.Random:
    """The dice of one case."""
    return random.Random(f"fault {seed}")


def stop_process(process: psutil.Process) -> None:
    """As a debugger, or a node that no longer answers, would."""
    process.send_signal(signal.SIGSTOP)
