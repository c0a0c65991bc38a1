import pickle
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.order import SampleOrder, micro_batch_positions

sizes = st.integers(1, 6)
seeds = st.integers(-(2**70), 2**70)


@given(workers=sizes, accumulation=sizes, micro_batch=sizes)
def test_the_micro_batches_of_all_workers_are_the_global_batch(workers, accumulation, micro_batch):
    global_batch = workers * accumulation * micro_batch
    parts = [micro_batch_positions(global_batch, workers, accumulation, rank) for rank in range(workers)]
    assert all(part.shape == (accumulation, micro_batch) for part in parts)
    assert sorted(np.concatenate(parts, axis=None)) == list(range(global_batch))


@given(workers=sizes, accumulation=sizes, micro_batch=sizes)
def test_equal_workers_times_accumulation_give_the_same_micro_batches(workers, accumulation, micro_batch):
    micro_batches = workers * accumulation
    global_batch = micro_batches * micro_batch
    alone = micro_batch_positions(global_batch, 1, micro_batches, 0)
    for rank in range(workers):
        shared = micro_batch_positions(global_batch, workers, accumulation, rank)
        np.testing.assert_array_equal(shared, alone[rank::workers])


def test_micro_batch_j_has_elements_j_j_plus_m():
    positions = micro_batch_positions(12, workers=2, accumulation=2, rank=1)
    assert positions.tolist() == [[1, 5, 9], [3, 7, 11]]


def test_a_batch_that_cannot_be_divided_names_its_key():
    with pytest.raises(DataError, match=r"^data\.global_batch: found 10, expected a multiple of .* = 4$"):
        micro_batch_positions(10, workers=2, accumulation=2, rank=0)


@settings(deadline=None)
@given(num_samples=st.integers(1, 400), global_batch=st.integers(1, 90), seed=seeds)
def test_each_epoch_is_a_permutation(num_samples, global_batch, seed):
    order = SampleOrder(num_samples, global_batch, seed)
    steps = -(-2 * num_samples // global_batch)
    ids, epochs = (np.concatenate(parts) for parts in zip(*map(order.ids, range(steps)), strict=True))
    assert ids.dtype == epochs.dtype == np.int64
    np.testing.assert_array_equal(epochs, np.arange(steps * global_batch) // num_samples)
    for epoch in (0, 1):
        assert sorted(ids[epochs == epoch]) == list(range(num_samples))


@settings(deadline=None)
@given(
    num_samples=st.integers(1, 10**9),
    global_batch=st.integers(1, 5000),
    step=st.integers(0, 10**5),
    seed=seeds,
)
def test_a_step_is_the_same_wherever_the_run_began(num_samples, global_batch, step, seed):
    through = SampleOrder(num_samples, global_batch, seed)
    through.ids(max(0, step - 1))
    resumed = pickle.loads(pickle.dumps(SampleOrder(num_samples, global_batch, seed)))
    for ours, theirs in zip(through.ids(step), resumed.ids(step), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert through.digest(step) == resumed.digest(step)


@settings(deadline=None)
@given(global_batch=st.integers(1, 50), multiple=st.integers(2, 5), seed=seeds)
def test_the_stream_of_samples_does_not_depend_on_how_it_is_batched(global_batch, multiple, seed):
    small, large = SampleOrder(97, global_batch, seed), SampleOrder(97, global_batch * multiple, seed)
    joined = np.concatenate([small.ids(step)[0] for step in range(multiple)])
    np.testing.assert_array_equal(joined, large.ids(0)[0])


def test_the_order_is_what_it_has_always_been():
    """A resumed run needs the very same order: a change here breaks every checkpoint that there is."""
    assert SampleOrder(1438, 96, 0).ids(0)[0][:6].tolist() == [408, 182, 1129, 1197, 31, 219]
    assert SampleOrder(1438, 96, 0).digest(0) == "a5874ed3d5b006c7"
    assert SampleOrder(10_000_000, 480, 1234).digest(20_833) == "4df9dba1fef49998"


def test_epochs_and_seeds_are_unrelated():
    num_samples = 1438
    epochs = [
        SampleOrder(num_samples, num_samples, seed).ids(epoch)[0] for seed in (0, 1) for epoch in range(3)
    ]
    for first in range(len(epochs)):
        for second in range(first):
            # Two random permutations agree in one place on average, and in ten with a chance of 1e-7.
            assert (epochs[first] == epochs[second]).sum() < 10


@pytest.mark.parametrize("num_samples", [12, 100, 1438])
def test_every_sample_comes_at_every_place_alike_often(num_samples):
    repeats = 400_000 // num_samples
    epochs = SampleOrder(num_samples, num_samples * repeats, 5).ids(0)[0].reshape(repeats, num_samples)
    bins = min(num_samples, 40)
    places = np.broadcast_to(np.arange(num_samples) * bins // num_samples, epochs.shape)
    counts = np.histogram2d(places.ravel(), (epochs * bins // num_samples).ravel(), bins=bins)[0]
    width = np.bincount(np.arange(num_samples) * bins // num_samples)
    expected = np.outer(width, width) * repeats / num_samples
    freedom = (bins - 1) ** 2
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_squared / freedom - 1) < 5 * np.sqrt(2 / freedom)  # five standard deviations


def test_a_large_batch_of_a_large_source_takes_a_few_milliseconds():
    order = SampleOrder(10_000_000, 2048, 0)
    order.ids(0)
    began = time.perf_counter()
    for step in range(100, 120):
        order.ids(step)
    assert (time.perf_counter() - began) / 20 < 0.05  # it takes 1 ms; the test's machine may be busy


def test_no_samples_is_an_error():
    with pytest.raises(DataError, match=r"^data: found 0 samples"):
        SampleOrder(0, 8, 0)
    with pytest.raises(DataError, match=r"^data\.global_batch: found 0"):
        SampleOrder(8, 0, 0)
