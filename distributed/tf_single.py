"""tf-single: one device and no wrapper at all, the base case of every speed-up and of every diff.

python -m distributed.tf_single --recipe digits-resnet18 --run-dir runs/a
"""

from distributed import topology
from distributed.environment import prepare_tensorflow
from training import stopping
from training.loop import Strategy, train
from training.options import Options, parse
from training.process import guarded, leave
from training.run import open_run
from training.state import State

STRATEGY = "tf-single"


def main() -> int:
    # 1. Read the command --------------------------------------------------------------------------
    # Frameworks are imported below: a mistyped key costs milliseconds, and loader processes stay small.
    options = parse(Options, "python -m distributed.tf_single")
    run = open_run(options, STRATEGY, topology.alone(STRATEGY))
    prepare_tensorflow()
    stopping.listen(run)
    import tensorflow as tf

    from distributed import toolbox_tf as toolbox
    from distributed.optimizer_tf import Optimizer
    from distributed.profile_tf import Tracer

    # 2. Join the group ----------------------------------------------------------------------------
    toolbox.choose_devices(run)

    def gather(numbers):
        return numbers[None]

    # 3. Place the model ---------------------------------------------------------------------------
    model = toolbox.build_model(run)
    optimizer = Optimizer(model, run)
    gradients_of = toolbox.gradients_function(model, run, optimizer)
    sums_of = toolbox.evaluation_function(model)

    # 4. Take one step -----------------------------------------------------------------------------
    @tf.function(autograph=False)
    def update(inputs, targets, target_count, learning_rate):
        loss, gradients = gradients_of(inputs, targets, target_count)
        return loss, optimizer.apply(gradients, learning_rate)

    def step(placed: toolbox.Placed, learning_rate: float, report: bool) -> tuple[tf.Tensor, tf.Tensor]:
        return update(*placed, tf.constant(learning_rate, tf.float64))

    # 5. Evaluate ----------------------------------------------------------------------------------
    evaluate_batch = tf.function(sums_of, autograph=False)

    def evaluate(feed):
        sums = sum(evaluate_batch(inputs, targets) for inputs, targets in toolbox.evaluation_batches(feed))
        return tuple(sums.numpy().tolist())

    # 6. Save and restore --------------------------------------------------------------------------
    def state(step_number: int, into: State) -> State | None:
        return toolbox.export_state(model, optimizer, run, step_number, into)

    def restore(state: State) -> None:
        toolbox.restore_state(model, optimizer, state)

    # 7. Train -------------------------------------------------------------------------------------
    settings, tracer = toolbox.settings(run), Tracer()
    code = train(
        run, Strategy(gather, toolbox.placement(run), step, evaluate, state, restore, settings, tracer)
    )

    # 8. Leave the group ---------------------------------------------------------------------------
    return code


if __name__ == "__main__":
    leave(guarded(main, topology.launched_rank()))
