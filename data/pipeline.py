"""From a source and an order to the batches of one worker, prepared ahead of time by Grain (google/grain).

The items that Grain fetches are whole local batches, so that data in memory is one vectorised gather a step.
"""

import contextlib
import functools
import gc
import os
import sys
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np

from data.errors import DataError
from data.loader_worker import die_with_parent
from data.order import SampleOrder, micro_batch_positions
from data.sources import Source

DELETION_TIMEOUT_S = 10.0


def train_batches(
    source: Source,
    order: SampleOrder,
    *,
    rank: int,
    workers: int,
    accumulation: int,
    first_step: int,
    num_steps: int,
    loader_workers: int = 0,
    prefetch_batches: int = 2,
) -> Generator[dict[str, Any], None, None]:
    """The batches of worker `rank` for `num_steps` steps from `first_step` (counted from 0), in order.

    Each is {"inputs": [A, m, …], "targets": [A, m, …], "target_count": targets that count in the *global*
    batch, "replaced": corrupt samples replaced in the local batch}, with A = accumulation and m = B /
    (workers * A). A resident source gives the same arrays, those of step 0, at every step.

    prefetch_batches: batches ready ahead of the step; 0 prepares each in the calling thread, for a debugger.
    loader_workers: processes that prepare them; 0 uses threads of this process.
    Raises DataError: at once for sizes that do not fit, while iterating for samples that cannot be read.
    """
    positions = micro_batch_positions(order.global_batch, workers, accumulation, rank)
    batches = _LocalBatches(source, order, positions, first_step, num_steps)
    if source.resident:
        return _repeat(batches.at_step(0), num_steps)
    return _deliver(batches, loader_workers, prefetch_batches)


def evaluation_batches(
    source: Source,
    *,
    rank: int,
    workers: int,
    batch_size: int,
    loader_workers: int = 0,
    prefetch_batches: int = 0,
) -> Iterator[dict[str, Any]]:
    """The share of worker `rank` in one pass over the source: {"inputs": [b, …], "targets": [b, …]}.

    Over all workers each sample comes exactly once. All workers get the same number of batches of
    `batch_size` samples; what is missing at the end are fillers, whose targets are all -1.
    """
    batches = _EvaluationBatches(source, rank, workers, batch_size)
    return _deliver(batches, loader_workers, prefetch_batches)


class _LocalBatches(Sequence):
    """Item k is the batch of one worker for step first_step + k. Loader processes get it by pickle."""

    def __init__(
        self, source: Source, order: SampleOrder, positions: np.ndarray, first_step: int, num_steps: int
    ):
        self._source = source
        self._order = order
        self._positions = positions
        self._steps = range(first_step, first_step + num_steps)

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index):
        return self.at_step(self._steps[index])

    def at_step(self, step: int) -> dict[str, Any]:
        ids, epochs = self._order.ids(step)
        local = self._positions.reshape(-1)
        batch = self._source.batch(ids[local], epochs[local])
        # Grain sends contiguous arrays through shared memory, all others through a pipe.
        inputs, targets = (np.ascontiguousarray(batch[key]) for key in ("inputs", "targets"))
        shape = self._positions.shape
        return {
            "inputs": inputs.reshape(*shape, *inputs.shape[1:]),
            "targets": targets.reshape(*shape, *targets.shape[1:]),
            "target_count": self._source.target_count(ids),
            "replaced": batch["replaced"],
        }


class _EvaluationBatches(Sequence):
    """Item k is the k-th batch of one worker; sample s is for worker s % workers."""

    def __init__(self, source: Source, rank: int, workers: int, batch_size: int):
        self._source = source
        self._rank = rank
        self._workers = workers
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-self._source.num_samples // (self._workers * self._batch_size))

    def __getitem__(self, index):
        rows = np.arange(index * self._batch_size, (index + 1) * self._batch_size, dtype=np.int64)
        ids = rows * self._workers + self._rank
        is_filler = ids >= self._source.num_samples
        batch = self._source.batch(np.where(is_filler, 0, ids), np.zeros_like(ids))
        targets = batch["targets"].copy()
        targets[is_filler] = -1
        return {"inputs": batch["inputs"], "targets": targets}


def _repeat(batch: dict[str, Any], times: int) -> Generator[dict[str, Any], None, None]:
    for _ in range(times):
        yield batch


def _deliver(
    batches: Sequence, loader_workers: int, prefetch_batches: int
) -> Generator[dict[str, Any], None, None]:
    """The items of `batches` in order, prepared where and how far ahead the caller wants."""
    if prefetch_batches == 0:
        return (batches[index] for index in range(len(batches)))
    grain = _import_grain()
    dataset = grain.MapDataset.source(batches)
    if loader_workers:
        per_worker = -(-prefetch_batches // loader_workers)
        read_in_place = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        dataset = dataset.to_iter_dataset(read_in_place).mp_prefetch(
            grain.MultiprocessingOptions(loader_workers, per_worker_buffer_size=per_worker),
            worker_init_fn=functools.partial(die_with_parent, os.getpid()),
        )
    else:
        num_threads = min(prefetch_batches, len(os.sched_getaffinity(0)))
        dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads, prefetch_batches))
    iterator = iter(dataset)
    iterator.start_prefetch()  # the first batches are made while the caller builds its model
    return _until_closed(iterator, in_shared_memory=loader_workers > 0)


def _until_closed(iterator: Any, in_shared_memory: bool) -> Generator[dict[str, Any], None, None]:
    """Grain's items as arrays of this process's own; closing ends threads and processes."""
    try:
        for batch in iterator:
            if (
                in_shared_memory
            ):  # copied, so that the memory is given back at once and not at some later exit
                batch = {key: np.array(part) for key, part in batch.items()}
            yield batch
    except DataError as error:
        raise DataError(str(error)) from error  # without the note that Grain puts on it
    finally:
        iterator.close()
        if in_shared_memory:
            gc.collect()  # Grain's iterators form a cycle that keeps the last batches' memory
            _await_deletions()


def _await_deletions() -> None:
    """Return when Grain's thread has given back the shared memory of every batch let go of so far.

    The process may end at any time after that: what the thread had not reached yet would be reported as leaked.
    """
    from grain.multiprocessing import SharedMemoryArray

    one_thread = getattr(SharedMemoryArray, "_del_thread_pool", None)
    if (
        one_thread is None or sys.is_finalizing()
    ):  # a program that fails ends its threads before its generators
        return
    with contextlib.suppress(ValueError):  # the pool is closed already
        one_thread.apply_async(int).wait(
            DELETION_TIMEOUT_S
        )  # it works in order: this comes after all before it


if "--multiprocessing-fork" in sys.orig_argv:  # a loader process, which imports Grain right after this
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.ERROR)


def _import_grain() -> Any:
    """Grain, imported only where it is used (0.2 s), without its warning that JAX is not installed."""
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        import grain
    finally:
        logging.set_verbosity(verbosity)
    return grain
