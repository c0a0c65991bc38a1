"""torch-single: one device and no wrapper at all, the base case of every speed-up and of every diff.

python -m distributed.torch_single --recipe digits-resnet18 --run-dir runs/a
"""

from distributed import topology
from training import stopping
from training.loop import Strategy, train
from training.options import Options, parse
from training.process import guarded, leave
from training.run import open_run
from training.state import State

STRATEGY = "torch-single"


def main() -> int:
    # 1. Read the command --------------------------------------------------------------------------
    # Frameworks are imported below: a mistyped key costs milliseconds, and loader processes stay small.
    options = parse(Options, "python -m distributed.torch_single")
    run = open_run(options, STRATEGY, topology.alone(STRATEGY))
    stopping.listen(run)
    import torch

    from distributed import toolbox_torch as toolbox
    from distributed.optimizer_torch import Optimizer
    from distributed.profile_torch import Tracer

    # 2. Join the group ----------------------------------------------------------------------------
    device = toolbox.choose_device(run)

    def gather(numbers):
        return numbers[None]

    # 3. Place the model ---------------------------------------------------------------------------
    model = toolbox.build_model(run, device)
    optimizer = Optimizer(model, run)

    # 4. Take one step -----------------------------------------------------------------------------
    def step(placed: toolbox.Placed, learning_rate: float, report: bool) -> tuple[torch.Tensor, torch.Tensor]:
        optimizer.zero_gradients()
        losses = []
        for inputs, targets in placed.micro_batches():
            loss = toolbox.loss_sum(model, inputs, targets, run.recipe.optimizer.label_smoothing)
            loss = loss / placed.target_count
            optimizer.scaled(loss).backward()
            losses.append(loss.detach())
        return sum(losses), optimizer.apply(learning_rate)

    # 5. Evaluate ----------------------------------------------------------------------------------
    def evaluate(feed):
        return tuple(toolbox.evaluation_sums(model, feed, device).tolist())

    # 6. Save and restore --------------------------------------------------------------------------
    def state(step_number: int, into: State) -> State | None:
        return toolbox.export_state(model, optimizer, run, step_number, into)

    def restore(state: State) -> None:
        toolbox.restore_state(model, optimizer, state)

    # 7. Train -------------------------------------------------------------------------------------
    settings, tracer = toolbox.settings(run, device), Tracer()
    code = train(
        run,
        Strategy(gather, toolbox.placement(run, device), step, evaluate, state, restore, settings, tracer),
    )

    # 8. Leave the group ---------------------------------------------------------------------------
    return code


if __name__ == "__main__":
    leave(guarded(main, topology.launched_rank()))
