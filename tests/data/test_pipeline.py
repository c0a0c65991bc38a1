import itertools
import os
import sys
import time

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import pipeline
from data.digits import Digits
from data.errors import DataError
from data.order import SampleOrder
from data.pipeline import evaluation_batches, train_batches
from data.synthetic import SyntheticTokens


class Numbers:
    """Sample i is the number i and its epoch; 13 counts as replaced, 999 fails, 2 targets count in each."""

    resident = False
    fingerprint = ""

    def __init__(self, num_samples):
        self.num_samples = num_samples

    def batch(self, ids, epochs):
        if (ids == 999).any():
            raise DataError("sample 999: broken")
        return {
            "inputs": np.stack([ids, epochs], axis=1).astype(np.int32),
            "targets": ids.astype(np.int32),
            "replaced": int((ids == 13).sum()),
        }

    def target_count(self, ids):
        return 2 * len(ids)


def train(source, global_batch, seed=0, **arguments):
    defaults = {
        "rank": 0,
        "workers": 1,
        "accumulation": 1,
        "first_step": 0,
        "num_steps": 3,
        "prefetch_batches": 0,
    }
    order = SampleOrder(source.num_samples, global_batch, seed)
    return list(train_batches(source, order, **(defaults | arguments)))


def assert_equal(first, second):
    assert len(first) == len(second)
    for ours, theirs in zip(first, second, strict=True):
        assert ours.keys() == theirs.keys() == {"inputs", "targets", "target_count", "replaced"}
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key])


sizes = st.integers(1, 4)


@settings(deadline=None, max_examples=50)
@given(
    workers=sizes,
    accumulation=sizes,
    micro_batch=sizes,
    first_step=st.integers(0, 50),
    seed=st.integers(0, 9),
)
def test_the_workers_share_the_global_batch_and_equal_m_is_the_same_training(
    workers, accumulation, micro_batch, first_step, seed
):
    micro_batches = workers * accumulation
    source, global_batch = Numbers(50), micro_batches * micro_batch
    of_rank = [
        train(
            source,
            global_batch,
            seed,
            rank=rank,
            workers=workers,
            accumulation=accumulation,
            first_step=first_step,
        )
        for rank in range(workers)
    ]
    alone = train(source, global_batch, seed, accumulation=micro_batches, first_step=first_step)
    for step, batches in enumerate(zip(*of_rank, strict=True)):
        assert all(batch["inputs"].shape == (accumulation, micro_batch, 2) for batch in batches)
        ids, epochs = SampleOrder(50, global_batch, seed).ids(first_step + step)
        shares = np.concatenate([batch["inputs"].reshape(-1, 2) for batch in batches])
        assert sorted(map(tuple, shares)) == sorted(zip(ids, epochs, strict=True))
        # Micro-batch j of the M is the same set, whichever worker has it and however many there are.
        for rank, batch in enumerate(batches):
            np.testing.assert_array_equal(batch["inputs"], alone[step]["inputs"][rank::workers])
            np.testing.assert_array_equal(batch["targets"], alone[step]["targets"][rank::workers])
        assert {batch["target_count"] for batch in batches} == {2 * global_batch}  # global, on every rank
        assert sum(batch["replaced"] for batch in batches) == (ids == 13).sum()


@settings(deadline=None, max_examples=20)
@given(first_step=st.integers(0, 12), workers=st.sampled_from([1, 2, 3]))
def test_resuming_gives_what_running_through_gives(first_step, workers):
    arguments = {"rank": workers - 1, "workers": workers, "accumulation": 2}
    through = train(Numbers(20), 12, num_steps=15, **arguments)
    resumed = train(Numbers(20), 12, first_step=first_step, num_steps=15 - first_step, **arguments)
    assert_equal(through[first_step:], resumed)


@pytest.mark.parametrize(("loader_workers", "prefetch_batches"), [(0, 1), (0, 5), (1, 2), (2, 3)])
def test_threads_and_processes_give_the_same_in_the_same_order(loader_workers, prefetch_batches):
    source = Digits("train", 16, 10)
    arguments = {"rank": 1, "workers": 2, "accumulation": 2, "first_step": 25, "num_steps": 9}
    here = train(source, 96, **arguments)
    there = train(source, 96, **arguments, loader_workers=loader_workers, prefetch_batches=prefetch_batches)
    assert_equal(here, there)
    assert all(type(batch[key]) is np.ndarray for batch in there for key in ("inputs", "targets"))


class Sliced(Numbers):
    """Its arrays are views with gaps."""

    def batch(self, ids, epochs):
        batch = super().batch(ids, epochs)
        return batch | {"inputs": np.repeat(batch["inputs"], 2, axis=1)[:, ::2]}


def test_arrays_come_through_shared_memory_and_not_through_a_pipe(monkeypatch):
    from grain._src.python.ipc.shared_memory_array import SharedMemoryArray

    opened = []
    open_array = SharedMemoryArray.from_metadata

    def watched(metadata):
        opened.append(tuple(metadata.shape))
        return open_array(metadata)

    monkeypatch.setattr(SharedMemoryArray, "from_metadata", watched)
    arguments = {"accumulation": 2, "num_steps": 4}
    there = train(Sliced(50), 8, loader_workers=1, prefetch_batches=2, **arguments)
    assert opened == 4 * [(2, 4, 2), (2, 4)]
    assert_equal(train(Numbers(50), 8, **arguments), there)


def test_without_prefetching_nothing_runs_beside_the_step(monkeypatch):
    def forbidden():
        raise AssertionError("Grain was wanted")

    monkeypatch.setattr(pipeline, "_import_grain", forbidden)
    train(Numbers(50), 8, loader_workers=2, prefetch_batches=0)


def test_batches_are_made_before_they_are_asked_for():
    made = []

    class Watched(Numbers):
        def batch(self, ids, epochs):
            made.append(int(epochs[0]))
            return super().batch(ids, epochs)

    order = SampleOrder(8, 8, 0)
    batches = train_batches(
        Watched(8), order, rank=0, workers=1, accumulation=1, first_step=0, num_steps=50, prefetch_batches=3
    )
    next(batches)
    batches.close()
    assert 3 <= len(made) <= 5


def test_an_error_comes_at_its_step_from_a_thread_or_a_process():
    order = SampleOrder(1000, 100, 0)
    at = next(step for step in range(10) if 999 in order.ids(step)[0])
    for loader_workers in (0, 1):
        batches = train_batches(
            Numbers(1000), order, rank=0, workers=1, accumulation=1, first_step=0, num_steps=10,
            loader_workers=loader_workers, prefetch_batches=2,
        )  # fmt: skip
        assert len(list(itertools.islice(batches, at))) == at
        with pytest.raises(DataError) as caught:
            next(batches)
        assert str(caught.value) == "sample 999: broken"
        assert not getattr(caught.value, "__notes__", [])  # Grain adds one on its own frames


def test_a_loader_process_that_is_killed_is_an_error_and_no_wait(capfd):
    order = SampleOrder(4000, 8, 0)
    batches = train_batches(
        Numbers(4000), order, rank=0, workers=1, accumulation=1, first_step=0, num_steps=400,
        loader_workers=1, prefetch_batches=2,
    )  # fmt: skip
    next(batches)
    (loader,) = [each for each in psutil.Process().children() if "--multiprocessing-fork" in each.cmdline()]
    loader.kill()
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="Worker process was terminated unexpectedly with exit code -9"):
        list(batches)
    assert time.monotonic() - began < 20
    assert not [each for each in psutil.Process().children() if "--multiprocessing-fork" in each.cmdline()]


def test_no_shared_memory_is_still_to_be_given_back_once_the_batches_are_closed(monkeypatch):
    """Grain gives it back in a thread; a process that ended before that thread was seen to leak."""
    from grain._src.python.ipc import shared_memory_array

    give_back, begun, done = shared_memory_array._del_shm, [], []

    def slowly(shm, unlink):
        begun.append(shm.name)
        time.sleep(0.2)
        give_back(shm, unlink)
        done.append(shm.name)

    monkeypatch.setattr(shared_memory_array, "_del_shm", slowly)
    order = SampleOrder(4000, 8, 0)
    batches = train_batches(
        Numbers(4000), order, rank=0, workers=1, accumulation=1, first_step=0, num_steps=100,
        loader_workers=1, prefetch_batches=2,
    )  # fmt: skip
    next(batches)
    batches.close()
    assert done and done == begun
    assert not [name for name in done if os.path.exists(f"/dev/shm/{name.lstrip('/')}")]


def test_sizes_that_do_not_fit_are_refused_at_once():
    order = SampleOrder(50, 10, 0)
    with pytest.raises(DataError, match=r"^data\.global_batch: found 10, "):
        train_batches(Numbers(50), order, rank=0, workers=3, accumulation=1, first_step=0, num_steps=1)


def test_a_resident_source_gives_one_batch_again_and_again():
    source = SyntheticTokens("train", context=4, vocabulary=9, seed=0)
    batches = train(source, 12, num_steps=3, first_step=7, workers=2)
    assert len(batches) == 3
    assert batches[0]["inputs"].shape == (1, 6, 4)
    assert batches[1]["inputs"] is batches[0]["inputs"]
    assert_equal(batches[:1], train(source, 12, num_steps=1, workers=2))


@settings(deadline=None, max_examples=60)
@given(num_samples=st.integers(1, 60), workers=st.integers(1, 5), batch_size=st.integers(1, 9))
def test_evaluation_sees_each_sample_once(num_samples, workers, batch_size):
    of_rank = [
        list(evaluation_batches(Numbers(num_samples), rank=rank, workers=workers, batch_size=batch_size))
        for rank in range(workers)
    ]
    assert len({len(batches) for batches in of_rank}) == 1
    seen = []
    for batch in itertools.chain(*of_rank):
        assert batch["inputs"].shape == (batch_size, 2)
        assert batch["targets"].shape == (batch_size,)
        is_real = batch["targets"] != -1
        seen += batch["inputs"][is_real, 0].tolist()
    assert sorted(seen) == list(range(num_samples))
    assert len(of_rank[0]) == -(-num_samples // (workers * batch_size))


def test_fillers_of_token_samples_count_in_no_place():
    source = SyntheticTokens("validation", context=4, vocabulary=9, seed=0)
    last = list(evaluation_batches(source, rank=2, workers=3, batch_size=100, prefetch_batches=2))[-1]
    assert last["targets"].shape == (100, 4)
    is_filler = (last["targets"] == -1).all(axis=1)
    np.testing.assert_array_equal(is_filler, (last["targets"] == -1).any(axis=1))
    assert is_filler.sum() == 100 * 4 - 341  # of 1,024 samples rank 2 has 2, 5, …, 1022


def test_importing_the_pipeline_does_not_import_grain():
    import subprocess

    code = "import sys, data.pipeline; print('grain' in sys.modules, 'absl' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False False\n"
