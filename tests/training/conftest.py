"""A strategy without a framework: NumPy gradients under the update rule of training/update_rule.py."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from models.specs import parameter_table
from training.loop import Strategy, train
from training.options import Options
from training.run import Run, open_run
from training.state import State
from training.stopping import Watch
from training.update_rule import global_norm, updated
from training.world import World

TINY = (
    *("steps=10", "precision=float64", "model.depth=10", "model.width=2", "model.image_size=8"),
    *("data.global_batch=24", "schedule.warmup_steps=2", "run.log_every=1"),
)
ALONE = World(0, 0, 1, 1, (0,), "direct")


class OnDevice:
    """A scalar that a framework still holds: to read it is to wait for the device."""

    def __init__(self, value: float, fake: "Fake") -> None:
        self.value, self.fake = value, fake

    def __float__(self) -> float:
        self.fake.waits += 1
        return float(self.value)


class Fake:
    """Pulls the parameters towards the batch's mean pixel, so each step depends on data, state and rate.

    `hook(step)` is called as step `step` (from 1) begins and may raise, or give a (loss, norm) of its own.
    """

    def __init__(
        self, run: Run, hook: Callable[[int], tuple[float, float] | None] = lambda step: None
    ) -> None:
        self.run, self.hook = run, hook
        self.now: State | None = None
        self.calls: list[tuple[float, bool]] = []
        self.waits = 0
        self.waits_before: list[int] = []
        self.given: list[State] = []
        functions = (self.gather, self.place, self.step, self.evaluate, self.state, self.restore)
        self.strategy = Strategy(*functions, {"device": "cpu"})

    def gather(self, numbers: np.ndarray) -> np.ndarray:
        return numbers[None]

    def place(self, batches):
        return np.concatenate([batch["inputs"].reshape(-1) for batch in batches]).mean() / 255

    def step(self, placed, learning_rate: float, report: bool):
        self.calls.append((learning_rate, report))
        self.waits_before.append(self.waits)
        given = self.hook(self.now.step + 1)
        gradients = {name: 0.1 * value + placed for name, value in self.now.parameters.items()}
        self.now = updated(self.now, gradients, learning_rate, self.run.recipe.optimizer)
        loss, norm = given or (placed, global_norm(gradients))
        return OnDevice(loss, self), OnDevice(norm, self)

    def evaluate(self, feed):
        targets = np.concatenate([batch["targets"].reshape(-1) for batches in feed for batch in batches])
        count = float((targets >= 0).sum())
        return 2.0 * count, 0.5 * count, count

    def state(self, step: int, into: State) -> State | None:
        assert self.now.step == step
        if not self.run.world.is_main:
            return None
        self.given.append(into)
        return deepcopy(self.now)  # the writer's own, as a framework's copies are

    def restore(self, state: State) -> None:
        self.now = state
        # A file knows no order, a framework its own: that of the model.
        self.now.parameters = {
            t.name: state.parameters[t.name] for t in parameter_table(self.run.recipe.model)
        }


@pytest.fixture
def open_tiny(tmp_path: Path) -> Callable[..., Run]:
    """Open a tiny run on digits in tmp_path; keyword arguments are options, a World, or the strategy's name."""

    def open_it(
        *overrides: str, name: str = "run", strategy: str = "torch-single", world=ALONE, **options
    ) -> Run:
        if not options.get("resume"):
            recipe = options.setdefault("recipe", "digits-resnet18")
            options["set"] = [(*(TINY if recipe == "digits-resnet18" else ()), *overrides)]
        return open_run(
            Options(run_dir=tmp_path / name, **{"telemetry_interval_s": 0.0, **options}), strategy, world
        )

    return open_it


@pytest.fixture
def train_tiny(open_tiny) -> Callable[..., tuple[int, Fake]]:
    """Open such a run and train it; returns the exit code and the strategy."""

    def train_it(*overrides: str, hook=lambda step: None, watch=None, **options) -> tuple[int, Fake]:
        fake = Fake(open_tiny(*overrides, **options), hook)
        return train(fake.run, fake.strategy, watch or Watch()), fake

    return train_it


class Collective:
    """gather among threads that stand for ranks: it returns when all have called it, or fails if one does not."""

    def __init__(self, size: int) -> None:
        self.rows: list = [None] * size
        self.barrier = threading.Barrier(size, timeout=10)

    def gather(self, rank: int, numbers: np.ndarray) -> np.ndarray:
        self.rows[rank] = numbers
        self.barrier.wait()
        table = np.stack(self.rows)
        self.barrier.wait()
        return table


@pytest.fixture
def train_together(open_tiny) -> Callable[..., list[tuple[int, Fake]]]:
    """As `train_tiny`, but a rank for each of `watches`, with its own of `hooks`."""

    def train_them(*overrides: str, hooks: list, watches: list[Watch], **options) -> list[tuple[int, Fake]]:
        size = len(watches)
        worlds = [World(rank, rank, size, size, (rank,), "torchrun") for rank in range(size)]
        runs = [open_tiny(*overrides, world=world, **options) for world in worlds]
        collective = Collective(size)

        def train_rank(rank: int) -> tuple[int, Fake]:
            fake = Fake(runs[rank], hooks[rank])
            fake.strategy.gather = lambda numbers: collective.gather(rank, numbers)
            return train(fake.run, fake.strategy, watches[rank]), fake

        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(train_rank, range(size)))

    return train_them
