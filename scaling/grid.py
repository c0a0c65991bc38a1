"""The runs of a study: which there are, and in what order.

A block holds each run once; there are as many blocks as repetitions, and each is shuffled by itself. So what drifts on
a machine during a study (heat, neighbours) hits all strategies alike, and an interrupted study has whole repetitions
(randomised complete blocks: Montgomery, Design and Analysis of Experiments, chapter 4).
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.recipe import load_recipe
from training.problems import UsageError
from training.run import check_batch

WAYS = ("weak", "strong")


@dataclass(frozen=True)
class Planned:
    """One run. scaling: weak, strong, or base for the -single strategies, which both are measured against."""

    recipe: str
    strategy: str
    workers: int
    nodes: int
    scaling: str
    repetition: int
    exchange: bool

    @property
    def id(self) -> str:
        """The name of its directory."""
        nodes = f"-{self.nodes}n" if self.nodes > 1 else ""
        alone = "" if self.exchange else "-alone"
        what = f"{Path(self.recipe).stem}-{self.scaling}-{self.strategy}-{self.workers}"
        return f"{what}{nodes}{alone}-r{self.repetition}"

    def overrides(self, given: tuple[str, ...]) -> tuple[str, ...]:
        """--set for this run: under weak scaling the recipe's batch is one worker's, and grows with their number."""
        if self.scaling != "weak":
            return given
        batch = load_recipe(self.recipe, given).data.global_batch
        return (*given, f"data.global_batch={batch * self.workers}")


@dataclass(frozen=True)
class Grid:
    """What is varied. sizes: (workers, nodes)."""

    recipes: Sequence[str]
    strategies: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    ways: Sequence[str]
    repetitions: int
    decompose: bool
    overrides: tuple[str, ...]
    seed: int

    def runs(self) -> list[Planned]:
        """All of them, in the order in which they run."""
        planned = []
        for repetition in range(1, self.repetitions + 1):
            block = list(self._block(repetition))
            random.Random(f"{self.seed} {repetition}").shuffle(block)
            planned += block
        return planned

    def _block(self, repetition: int) -> Iterator[Planned]:
        several = [name for name in self.strategies if not name.endswith("-single")]
        bases = dict.fromkeys(f"{name.partition('-')[0]}-single" for name in self.strategies)
        # Among jobs of one node count each, which may run at the same time, those of one node have the bases.
        on_one_node = any(nodes == 1 for _, nodes in self.sizes)
        for recipe in self.recipes:
            for base in bases if on_one_node else ():
                yield Planned(recipe, base, 1, 1, "base", repetition, True)
            for way in self.ways:
                for strategy in several:
                    for workers, nodes in self.sizes:
                        yield Planned(recipe, strategy, workers, nodes, way, repetition, True)
                        if self.decompose and workers > 1:
                            yield Planned(recipe, strategy, workers, nodes, way, repetition, False)

    def check(self) -> None:
        """Everything that can be wrong with a recipe, before any run. Raises RecipeError or UsageError."""
        for run in self._block(1):  # the other repetitions are the same runs
            recipe = load_recipe(run.recipe, run.overrides(self.overrides))
            check_batch(recipe, run.workers, 1)
            if recipe.run.checkpoint_every:
                raise UsageError(
                    f"run.checkpoint_every: found {recipe.run.checkpoint_every} in {run.recipe}, but a study "
                    "measures steps only; add --set run.checkpoint_every=0"
                )
