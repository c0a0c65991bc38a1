"""The batches of this process's workers, in the order of invariant 2."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack

from data.order import SampleOrder
from data.pipeline import evaluation_batches, train_batches
from training.run import Run

Batches = tuple[dict, ...]
"""One batch for each worker that this process drives."""
EVALUATION_FACTOR = 2
"""Evaluation keeps no activations for a backward pass, so its batches are larger than a micro-batch."""
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
"""ImageNet's mean and deviation of red, green and blue on the scale of 0 to 255; all image sources use them."""


def training_feed(run: Run, first_step: int, num_steps: int) -> Generator[Batches, None, None]:
    """For each step a batch a worker: inputs and targets [A, m, …], `target_count` over the global batch.

    Closing it ends the loader's threads and processes.
    """
    recipe, world = run.recipe, run.world
    order = SampleOrder(run.train_source.num_samples, recipe.data.global_batch, recipe.seed)
    eager = run.options.eager
    streams = [
        train_batches(
            run.train_source,
            order,
            rank=rank,
            workers=run.workers,
            accumulation=run.accumulation,
            first_step=first_step,
            num_steps=num_steps,
            loader_workers=0 if eager else -(-recipe.performance.loader_workers // len(world.worker_ranks)),
            prefetch_batches=0 if eager else recipe.performance.prefetch_batches,
        )
        for rank in world.worker_ranks
    ]
    with ExitStack() as stack:
        for stream in streams:
            stack.callback(stream.close)
        yield from zip(*streams, strict=True)


def evaluation_feed(run: Run) -> Iterator[Batches]:
    """Every held-out sample exactly once over all workers (invariant 7)."""
    recipe = run.recipe
    source = run.open_source("validation")
    micro_batch = recipe.data.global_batch // (run.workers * run.accumulation)
    streams = [
        evaluation_batches(source, rank=rank, workers=run.workers, batch_size=EVALUATION_FACTOR * micro_batch)
        for rank in run.world.worker_ranks
    ]
    return zip(*streams, strict=True)
