"""What each process of a MultiWorkerMirroredStrategy has, made known to all of them."""

import itertools

import numpy as np
import tensorflow as tf

from training.world import World

_GROUP = 20_000  # the strategy counts its own groups up from 1
_calls = itertools.count()


def gather_over_processes(numbers: np.ndarray, world: World) -> np.ndarray:
    """int64 [k] of each process as [processes, k], over the processes' CPUs: no device is waited for.

    strategy.gather would go over the GPUs, trace a graph for each call (58 ms against 1.2 on 2 CPU cores) and have a
    row a replica.
    """
    if world.num_processes == 1:
        return numbers[None]
    with tf.device("CPU:0"):
        return tf.raw_ops.CollectiveGatherV2(
            input=tf.constant(numbers[None]),
            group_size=world.num_processes,
            group_key=_GROUP,
            instance_key=next(_calls),
            ordering_token=[],
        ).numpy()
