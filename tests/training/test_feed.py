import numpy as np
import pytest

from data.order import SampleOrder
from training.feed import evaluation_feed, training_feed
from training.world import World


def one_process(workers: int) -> World:
    return World(0, 0, 1, workers, tuple(range(workers)), "direct")


def process(rank: int, workers: int) -> World:
    return World(rank, rank, workers, workers, (rank,), "torchrun")


def assert_equal(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(second[key], value)


def test_a_process_with_several_workers_gets_what_as_many_processes_get(open_tiny) -> None:
    together = list(training_feed(open_tiny(world=one_process(3), accumulation=2), 0, 3))
    assert len(together) == 3
    apart = [training_feed(open_tiny(world=process(rank, 3), accumulation=2), 0, 3) for rank in range(3)]
    for batches, *others in zip(together, *apart, strict=True):
        assert len(batches) == 3
        for batch, (alone,) in zip(batches, others, strict=True):
            assert batch["inputs"].shape == (2, 4, 8, 8, 3)
            assert batch["target_count"] == 24
            assert_equal(batch, alone)


def test_the_batches_are_those_of_the_sample_order_from_any_step_on(open_tiny) -> None:
    run = open_tiny()
    order = SampleOrder(run.train_source.num_samples, 24, run.recipe.seed)
    for step, (batch,) in enumerate(training_feed(run, 5, 2), start=5):
        expected = run.train_source.batch(*order.ids(step))
        np.testing.assert_array_equal(batch["inputs"][0], expected["inputs"])
        np.testing.assert_array_equal(batch["targets"][0], expected["targets"])


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_evaluation_sees_each_held_out_sample_once(open_tiny, workers: int) -> None:
    run = open_tiny(world=one_process(workers))
    source = run.open_source("validation")
    expected = source.batch(np.arange(source.num_samples), np.zeros(source.num_samples, np.int64))
    feed = [batch for batches in evaluation_feed(run) for batch in batches]
    assert {batch["inputs"].shape[0] for batch in feed} == {2 * 24 // workers}
    targets = np.concatenate([batch["targets"] for batch in feed])
    inputs = np.concatenate([batch["inputs"] for batch in feed])[targets >= 0]
    assert sorted(image.tobytes() for image in inputs) == sorted(
        image.tobytes() for image in expected["inputs"]
    )
    assert sorted(targets[targets >= 0]) == sorted(expected["targets"])
