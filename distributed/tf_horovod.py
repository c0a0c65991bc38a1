"""tf-horovod: Horovod's all-reduce on TensorFlow, one process a worker.

mpirun -np 8 python -m distributed.tf_horovod --recipe digits-resnet18 --run-dir runs/a
horovodrun -np 8 python -m distributed.tf_horovod --recipe digits-resnet18 --run-dir runs/a
"""

from distributed import horovod_setup, topology
from distributed.environment import prepare_tensorflow
from distributed.horovod_timeline import Timeline
from distributed.network import prepare_network
from training import stopping
from training.loop import Strategy, train
from training.options import HorovodOptions, parse
from training.problems import EXIT_FAILED
from training.process import die_with_parent, guarded, leave
from training.run import open_run
from training.state import State

STRATEGY = "tf-horovod"


def main() -> int:
    # 1. Read the command --------------------------------------------------------------------------
    # Frameworks are imported below: a mistyped key costs milliseconds, and loader processes stay small.
    die_with_parent()
    options = parse(HorovodOptions, "mpirun … python -m distributed.tf_horovod")
    run = open_run(options, STRATEGY, topology.of_horovod(STRATEGY))
    horovod_setup.check_build("tensorflow")
    horovod_setup.prepare_horovod(options, run.world, run.recipe.performance)
    prepare_tensorflow()
    stopping.listen(run)
    import horovod.tensorflow as hvd
    import tensorflow as tf

    from distributed import toolbox_tf as toolbox
    from distributed.optimizer_tf import Optimizer
    from distributed.profile_tf import Tracer
    from models.layout_tf import named_buffers

    # 2. Join the group ----------------------------------------------------------------------------
    prepare_network(run.world)
    hvd.init()
    horovod_setup.check_group(hvd, run.world)
    (device,) = toolbox.choose_devices(run)
    horovod_setup.check_abilities(hvd, options, device.startswith("GPU"))

    def gather(numbers):
        with tf.device("CPU:0"):  # in host memory: what a GPU has yet to do is not waited for
            return hvd.allgather(tf.constant(numbers[None]), name=f"gather.{len(numbers)}").numpy()

    # 3. Place the model ---------------------------------------------------------------------------
    # BatchNorm's statistics stay each worker's own until they are averaged.
    model = toolbox.build_model(run)
    optimizer = Optimizer(model, run)
    gradients_of = toolbox.gradients_function(model, run, optimizer)
    sums_of = toolbox.evaluation_function(model)
    wire_type = horovod_setup.wire_type(options, run)
    compression = hvd.Compression.fp16 if wire_type == "fp16" else hvd.Compression.none
    reduction = hvd.Adasum if options.adasum else hvd.Sum

    # 4. Take one step -----------------------------------------------------------------------------
    # A gradient leaves as soon as the backward pass has it; Horovod sends together what is ready together.
    # Not hvd.DistributedOptimizer: Keras 3 never calls what it overrides, and every worker would train alone.
    def combine(name: str, gradient: tf.Tensor) -> tf.Tensor:
        if not run.exchanges:
            return gradient
        return hvd.allreduce(gradient, name=name, op=reduction, compression=compression)

    # The loss is divided by the global count, so the workers' gradients add up; Adasum takes each worker's mean.
    share = run.workers if options.adasum or not run.exchanges else 1

    @tf.function(autograph=False)
    def update(inputs, targets, target_count, learning_rate):
        loss, gradients = gradients_of(inputs, targets, target_count)
        named = zip(optimizer.variables, gradients, strict=True)
        gradients = [combine(name, gradient * share if share > 1 else gradient) for name, gradient in named]
        return loss, optimizer.apply(gradients, learning_rate)

    def step(placed: toolbox.Placed, learning_rate: float, report: bool) -> tuple[tf.Tensor, tf.Tensor]:
        loss, norm = update(*placed, tf.constant(learning_rate, tf.float64))
        if report and run.exchanges:
            loss = hvd.allreduce(loss, name="loss", op=hvd.Sum)
        return loss, norm

    # 5. Evaluate ----------------------------------------------------------------------------------
    evaluate_batch = tf.function(sums_of, autograph=False)

    def evaluate(feed):
        average_statistics()
        batches = toolbox.evaluation_batches(feed)
        sums = sum((evaluate_batch(*batch) for batch in batches), start=tf.zeros([3], tf.float64))
        return tuple(hvd.allreduce(sums, name="evaluation", op=hvd.Sum).numpy().tolist())

    # 6. Save and restore --------------------------------------------------------------------------
    @tf.function(autograph=False)
    def average_statistics():
        if buffers := list(named_buffers(model).values()):
            values = [tf.convert_to_tensor(buffer) for buffer in buffers]
            averages = hvd.grouped_allreduce(values, name="statistics", op=hvd.Average)
            for buffer, average in zip(buffers, averages, strict=True):
                buffer.assign(average)

    def state(step_number: int, into: State) -> State | None:
        average_statistics()
        return toolbox.export_state(model, optimizer, run, step_number, into)

    def restore(state: State) -> None:
        toolbox.restore_state(model, optimizer, state)
        hvd.broadcast_variables(list(toolbox.state_tensors(model, optimizer).values()), root_rank=0)

    # 7. Train -------------------------------------------------------------------------------------
    tracer = Tracer(Timeline(hvd, run.world))
    settings = toolbox.settings(run) | horovod_setup.settings(hvd, options, wire_type)
    code = train(
        run, Strategy(gather, toolbox.placement(run), step, evaluate, state, restore, settings, tracer)
    )

    # 8. Leave the group ---------------------------------------------------------------------------
    # Together: mpirun ends the others as soon as one process is gone with an exit code such as 75.
    if code != EXIT_FAILED:
        hvd.join()
        hvd.shutdown()
    return code


if __name__ == "__main__":
    leave(guarded(main, topology.launched_rank()))
