"""Probe: an all-reduce of TensorFlow tensors. Prints one JSON line.

python -m distributed.allreduce_tf mirrored          (over two GPUs or, without them, two logical CPUs of one process)
mpirun -np 2 python -m distributed.allreduce_tf horovod
"""

import sys

from distributed.allreduce import ELEMENTS, measure, report
from distributed.environment import prepare_tensorflow
from training.process import die_with_parent


def main() -> int:
    """Returns 0, or raises what the runtime raises."""
    die_with_parent()
    prepare_tensorflow()
    return {"horovod": _horovod, "mirrored": _mirrored}[sys.argv[1]]()


def _horovod() -> int:
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    gpus = tf.config.list_physical_devices("GPU")
    tf.config.set_visible_devices(gpus[hvd.local_rank()] if gpus and hvd.nccl_built() else [], "GPU")
    ones = tf.ones([ELEMENTS])

    def all_reduce(elements: int) -> float:
        return float(hvd.allreduce(ones[:elements], name=f"probe.{elements}", op=hvd.Sum)[-1])

    rank, figures, found = hvd.rank(), measure(all_reduce, hvd.size()), all_reduce(ELEMENTS)
    hvd.shutdown()
    return report(figures, found, rank)


def _mirrored() -> int:
    import tensorflow as tf

    kind = "GPU" if len(tf.config.list_physical_devices("GPU")) > 1 else "CPU"
    if kind == "CPU":
        (cpu, *_) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy([f"{kind}:0", f"{kind}:1"])

    @tf.function(autograph=False)
    def sums(elements: int) -> tf.Tensor:
        def replica() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.ones([elements]))

        return [sums[-1] for sums in strategy.experimental_local_results(strategy.run(replica))]

    def all_reduce(elements: int) -> float:
        return [float(value) for value in sums(elements)][-1]

    return report(measure(all_reduce, 2), all_reduce(ELEMENTS), 0)


if __name__ == "__main__":
    raise SystemExit(main())
