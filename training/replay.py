"""One-step verification: take each step from another run's states, and record what this strategy makes of it.

Chaos doubles a rounding difference every few steps, so runs that go freely agree only as long as their recipe is
calm. Started at each step from the *same* state they agree at every learning rate, or something is wrong.
`launchers.verify` compares what is recorded here; the numbers are this process's own, nothing is judged here.
"""

from typing import TYPE_CHECKING

from data.order import SampleOrder
from telemetry.run_log import RunLog
from training import checkpoint
from training.feed import training_feed
from training.problems import UsageError
from training.run import Run
from training.schedule import learning_rates
from training.state import State, initial_state

if TYPE_CHECKING:
    from training.loop import Strategy

FOLDER = "replay"


def replay(run: Run, strategy: "Strategy") -> None:
    """For each step s: restore the reference's state s, step once, write replay/step-<s+1> and a row of metrics.

    Raises UsageError where the reference run lacks a checkpoint of a step.
    """
    recipe, world = run.recipe, run.world
    assert run.options.replay_from is not None
    folder = run.run_dir / FOLDER
    folder.mkdir(exist_ok=True)
    log = RunLog(folder, world.rank, writes_metrics=world.is_main, resume=False)
    order = SampleOrder(run.train_source.num_samples, recipe.data.global_batch, recipe.seed)
    rates = learning_rates(recipe)
    for step, batches in enumerate(training_feed(run, 0, recipe.steps)):
        strategy.restore(reference_state(run, step))
        loss, norm = strategy.step(strategy.place(batches), float(rates[step]), True)
        state = strategy.state(step + 1, State(0, {}, {}))
        log.metrics(
            {
                "step": step + 1,
                "loss": float(loss),
                "learning_rate": float(rates[step]),
                "grad_norm": float(norm),
                "sample_digest": order.digest(step),
            }
        )
        if state is not None:
            checkpoint.write_state(
                folder / f"step-{step + 1:08d}", state, recipe_id=recipe.recipe_id, extra={}, durable=False
            )
    log.close()


def reference_state(run: Run, step: int) -> State:
    """The state that the reference run had after `step` steps."""
    if step == 0:
        return initial_state(run.recipe)
    assert run.options.replay_from is not None
    try:
        return checkpoint.load(run.options.replay_from / "checkpoints" / f"step-{step:08d}")[0]
    except checkpoint.CheckpointError as error:
        raise UsageError(
            f"--replay-from {run.options.replay_from}: needs a checkpoint of every step ({error}); "
            "make that run with --set run.checkpoint_every=1 run.keep_checkpoints=1000000"
        ) from error
