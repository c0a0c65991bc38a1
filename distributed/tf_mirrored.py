"""tf-mirrored: MirroredStrategy, one process that drives all the devices of its node; MultiWorkerMirroredStrategy
where TF_CONFIG or srun tell of several (without GPUs each of them is one worker).

python -m distributed.tf_mirrored --workers 8 --recipe digits-resnet18 --run-dir runs/a
srun --nodes=2 --ntasks-per-node=1 python -m distributed.tf_mirrored --recipe digits-resnet18 --run-dir runs/a
"""

from distributed import topology
from distributed.environment import prepare_tensorflow
from distributed.meeting import bounded, meet
from distributed.network import prepare_network
from recipes.recipe import HALF_TYPES
from training import communication, stopping
from training.hanging import longest_s
from training.loop import Strategy, train
from training.options import Options, parse
from training.problems import EXIT_FAILED
from training.process import guarded, leave
from training.run import open_run
from training.state import State

STRATEGY = "tf-mirrored"


def main() -> int:
    # 1. Read the command --------------------------------------------------------------------------
    # Frameworks are imported below: a mistyped key costs milliseconds, and loader processes stay small.
    options = parse(Options, "python -m distributed.tf_mirrored")
    run = open_run(options, STRATEGY, topology.of_mirrored(options.workers))
    prepare_tensorflow()
    stopping.listen(run)
    import os
    from contextlib import suppress

    import numpy as np
    import tensorflow as tf

    from distributed import toolbox_tf as toolbox
    from distributed.gather_tf import gather_over_processes
    from distributed.optimizer_tf import Optimizer
    from distributed.profile_tf import Tracer
    from models.layout_tf import named_buffers

    # 2. Join the group ----------------------------------------------------------------------------
    prepare_network(run.world)
    devices = toolbox.choose_devices(run)
    if run.world.num_processes == 1:
        strategy = tf.distribute.MirroredStrategy(devices)
    else:
        os.environ["TF_CONFIG"] = topology.tf_config(run.world.addresses, run.world.rank)
        meet(run.world.addresses, run.world.rank)
        with bounded(longest_s(run.options.hang_timeout_s)):
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
    tf.distribute.experimental_set_strategy(strategy)

    def gather(numbers):
        return gather_over_processes(numbers, run.world)

    # 3. Place the model ---------------------------------------------------------------------------
    # Every replica restores the same state; BatchNorm's statistics stay each worker's own until they are averaged.
    model = toolbox.build_model(run)
    optimizer = Optimizer(model, run)
    gradients_of = toolbox.gradients_function(model, run, optimizer)
    sums_of = toolbox.evaluation_function(model)

    # 4. Take one step -----------------------------------------------------------------------------
    # The loss is divided by the global count, so the workers' gradients add up.
    bucket_mib = run.recipe.performance.bucket_mib
    packs = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=bucket_mib * 2**20)
    compression = communication.wire_type(run.recipe.performance, run.workers, run.exchanges)

    def combine(loss, gradients):
        context = tf.distribute.get_replica_context()
        if compression == "none":
            return context.all_reduce(tf.distribute.ReduceOp.SUM, [loss, *gradients], packs)
        # What travels together has one type; the loss keeps its own.
        wire = [tf.cast(gradient, HALF_TYPES[compression]) for gradient in gradients]
        loss = context.all_reduce(tf.distribute.ReduceOp.SUM, loss)
        wire = context.all_reduce(tf.distribute.ReduceOp.SUM, wire, packs)
        return loss, *(tf.cast(w, gradient.dtype) for w, gradient in zip(wire, gradients, strict=True))

    def replica_update(inputs, targets, target_count, learning_rate):
        loss, gradients = gradients_of(inputs, targets, target_count)
        if run.exchanges:
            loss, *gradients = combine(loss, gradients)
        else:
            gradients = [gradient * run.workers for gradient in gradients]
        return loss, optimizer.apply(gradients, learning_rate)

    @tf.function(autograph=False)
    def update(*arguments):
        results = strategy.run(replica_update, arguments)
        return [strategy.experimental_local_results(result)[0] for result in results]

    def step(placed: toolbox.Placed, learning_rate: float, report: bool) -> tuple[tf.Tensor, tf.Tensor]:
        return update(*placed, tf.constant(learning_rate, tf.float64))

    # 5. Evaluate ----------------------------------------------------------------------------------
    @tf.function(autograph=False)
    def evaluate_batch(inputs, targets):
        return strategy.reduce(
            tf.distribute.ReduceOp.SUM, strategy.run(sums_of, (inputs, targets)), axis=None
        )

    def evaluate(feed):
        average_statistics()
        sums = sum(evaluate_batch(inputs, targets) for inputs, targets in toolbox.evaluation_batches(feed))
        return tuple(sums.numpy().tolist())

    # 6. Save and restore --------------------------------------------------------------------------
    def replica_average():
        buffers = list(named_buffers(model).values())
        values = [1.0 * buffer for buffer in buffers]  # a variable that is merely read has no device
        averages = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, values)
        for buffer, average in zip(buffers, averages, strict=True):
            buffer.assign(average)

    @tf.function(autograph=False)
    def average_statistics():
        if named_buffers(model):
            strategy.run(replica_average)

    def state(step_number: int, into: State) -> State | None:
        average_statistics()
        return toolbox.export_state(model, optimizer, run, step_number, into)

    def restore(state: State) -> None:
        toolbox.restore_state(model, optimizer, state)

    # 7. Train -------------------------------------------------------------------------------------
    used = communication.in_effect(compression, bucket_mib or None)
    settings, tracer = toolbox.settings(run) | {"communication": used}, Tracer(workers=len(devices))
    code = train(
        run, Strategy(gather, toolbox.placement(run), step, evaluate, state, restore, settings, tracer)
    )

    # 8. Leave the group ---------------------------------------------------------------------------
    # Together: a launcher may end the others as soon as one process is gone with an exit code such as 75.
    if code != EXIT_FAILED:
        with suppress(tf.errors.OpError):  # who is through first may cut off the others' answer
            gather(np.zeros(1, np.int64))
    return code


if __name__ == "__main__":
    leave(guarded(main, topology.launched_rank()))
