from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.recipe import load_recipe
from scaling.grid import Grid
from training.problems import UsageError

GRID = Grid(
    recipes=("study-resnet", "study-gpt"),
    strategies=("torch-ddp", "tf-mirrored"),
    sizes=((1, 1), (2, 1), (8, 4)),
    ways=("weak", "strong"),
    repetitions=3,
    decompose=True,
    overrides=(),
    seed=0,
)


def test_each_block_holds_each_run_once() -> None:
    runs = GRID.runs()
    assert len({run.id for run in runs}) == len(runs)
    size = len(runs) // 3
    # 2 recipes x (2 bases + 2 ways x 2 strategies x (3 sizes with exchange, 2 without))
    assert size == 2 * (2 + 2 * 2 * 5)
    for number in range(3):
        block = runs[number * size : (number + 1) * size]
        assert {run.repetition for run in block} == {number + 1}
        assert sum(run.scaling == "base" for run in block) == 4
        assert all(run.exchange for run in block if run.workers == 1)


@given(st.integers(0, 9), st.integers(1, 4), st.booleans())
def test_the_order_follows_from_the_seed_alone_and_later_repetitions_change_no_earlier_one(
    seed: int, repetitions: int, decompose: bool
) -> None:
    grid = replace(GRID, seed=seed, repetitions=repetitions, decompose=decompose)
    runs = grid.runs()
    assert runs == grid.runs()
    assert replace(grid, repetitions=repetitions + 1).runs()[: len(runs)] == runs
    assert decompose == any(not run.exchange for run in runs)


def test_of_jobs_of_one_node_count_each_only_that_of_one_node_has_the_bases() -> None:
    parts = [replace(GRID, sizes=sizes).runs() for sizes in (((1, 1), (2, 1)), ((8, 4),))]
    assert sorted(run.id for part in parts for run in part) == sorted(run.id for run in GRID.runs())
    assert not any(run.scaling == "base" for run in parts[1])


def test_the_order_is_shuffled_differently_in_each_block() -> None:
    runs = GRID.runs()
    size = len(runs) // 3
    blocks = [[replace(run, repetition=0) for run in runs[k * size : (k + 1) * size]] for k in range(3)]
    assert blocks[0] != blocks[1] != blocks[2] != blocks[0]
    assert blocks[0] != replace(GRID, seed=1).runs()[:size]


def test_under_weak_scaling_the_recipes_batch_is_one_workers() -> None:
    batches = {
        (run.scaling, run.workers): load_recipe(
            run.recipe, run.overrides(("data.global_batch=8",))
        ).data.global_batch
        for run in GRID.runs()
    }
    assert batches[("base", 1)] == batches[("weak", 1)] == 8
    assert (batches[("weak", 2)], batches[("weak", 8)]) == (16, 64)
    assert batches[("strong", 1)] == batches[("strong", 2)] == batches[("strong", 8)] == 8


def test_what_cannot_run_is_told_before_anything_runs() -> None:
    replace(GRID, overrides=("data.global_batch=8",)).check()
    with pytest.raises(UsageError, match=r"data\.global_batch: found 6"):
        replace(GRID, overrides=("data.global_batch=6",)).check()  # strong scaling over 8 workers
    with pytest.raises(UsageError, match=r"run\.checkpoint_every: found 5 in study-"):
        replace(GRID, overrides=("data.global_batch=8", "run.checkpoint_every=5")).check()
