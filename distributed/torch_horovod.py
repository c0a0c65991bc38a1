"""torch-horovod: Horovod's all-reduce on PyTorch, one process a worker.

mpirun -np 8 python -m distributed.torch_horovod --recipe digits-resnet18 --run-dir runs/a
horovodrun -np 8 python -m distributed.torch_horovod --recipe digits-resnet18 --run-dir runs/a
"""

from distributed import horovod_setup, topology
from distributed.horovod_timeline import Timeline
from distributed.network import prepare_network
from training import stopping
from training.loop import Strategy, train
from training.options import HorovodOptions, parse
from training.problems import EXIT_FAILED
from training.process import die_with_parent, guarded, leave
from training.run import open_run
from training.state import State

STRATEGY = "torch-horovod"


def main() -> int:
    # 1. Read the command --------------------------------------------------------------------------
    # Frameworks are imported below: a mistyped key costs milliseconds, and loader processes stay small.
    die_with_parent()
    options = parse(HorovodOptions, "mpirun … python -m distributed.torch_horovod")
    run = open_run(options, STRATEGY, topology.of_horovod(STRATEGY))
    horovod_setup.check_build("torch")
    horovod_setup.prepare_horovod(options, run.world, run.recipe.performance)
    stopping.listen(run)
    from functools import partial

    import horovod.torch as hvd
    import torch

    from distributed import toolbox_torch as toolbox
    from distributed.optimizer_torch import Optimizer
    from distributed.profile_torch import Tracer
    from models.layout_torch import named_buffers

    # 2. Join the group ----------------------------------------------------------------------------
    prepare_network(run.world)
    hvd.init()
    horovod_setup.check_group(hvd, run.world)
    device = toolbox.choose_device(run)
    horovod_setup.check_abilities(hvd, options, device.type == "cuda")

    def gather(numbers):
        return hvd.allgather(torch.from_numpy(numbers)[None], name=f"gather.{len(numbers)}").numpy()

    # 3. Place the model ---------------------------------------------------------------------------
    # BatchNorm's statistics stay each worker's own until they are averaged.
    model = toolbox.build_model(run, device)
    optimizer = Optimizer(model, run)
    wire_type = horovod_setup.wire_type(options, run)
    compression = hvd.Compression.fp16 if wire_type == "fp16" else hvd.Compression.none
    reduction = hvd.Adasum if options.adasum else hvd.Sum

    # 4. Take one step -----------------------------------------------------------------------------
    # A gradient leaves as soon as the backward pass has it; Horovod sends together what is ready together.
    travelling = []
    is_last_micro_batch = False

    def send(name: str, parameter: torch.Tensor) -> None:
        if is_last_micro_batch:
            wire, context = compression.compress(toolbox.contiguous_view(parameter.grad))
            travelling.append((parameter, wire, context, hvd.allreduce_async_(wire, name=name, op=reduction)))

    def receive() -> None:
        for parameter, wire, context, handle in travelling:
            hvd.synchronize(handle)
            if wire_type != "none":
                toolbox.contiguous_view(parameter.grad).copy_(compression.decompress(wire, context))
        travelling.clear()

    for name, parameter in optimizer.parameters.items():
        parameter.register_post_accumulate_grad_hook(partial(send, name))

    # The loss is divided by the global count, so the workers' gradients add up; Adasum takes each worker's mean.
    share = run.workers if options.adasum or not run.exchanges else 1

    def step(placed: toolbox.Placed, learning_rate: float, report: bool) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal is_last_micro_batch
        optimizer.zero_gradients()
        losses = []
        for number, (inputs, targets) in enumerate(placed.micro_batches(), start=1):
            is_last_micro_batch = number == run.accumulation and run.exchanges
            loss = toolbox.loss_sum(model, inputs, targets, run.recipe.optimizer.label_smoothing)
            loss = loss / placed.target_count
            optimizer.scaled(loss * share).backward()
            losses.append(loss.detach())
        receive()
        loss = sum(losses)
        if report and run.exchanges:
            loss = hvd.allreduce(loss, name="loss", op=hvd.Sum)
        return loss, optimizer.apply(learning_rate)

    # 5. Evaluate ----------------------------------------------------------------------------------
    def evaluate(feed):
        average_statistics()
        sums = toolbox.evaluation_sums(model, feed, device)
        return tuple(hvd.allreduce(sums, name="evaluation", op=hvd.Sum).tolist())

    # 6. Save and restore --------------------------------------------------------------------------
    def average_statistics():
        if buffers := list(named_buffers(model).values()):
            hvd.grouped_allreduce_(buffers, name="statistics", op=hvd.Average)

    def state(step_number: int, into: State) -> State | None:
        average_statistics()
        return toolbox.export_state(model, optimizer, run, step_number, into)

    @torch.no_grad()
    def restore(state: State) -> None:
        toolbox.restore_state(model, optimizer, state)
        tensors = toolbox.state_tensors(model, optimizer)
        hvd.broadcast_parameters(
            {name: toolbox.contiguous_view(t) for name, t in tensors.items()}, root_rank=0
        )

    # 7. Train -------------------------------------------------------------------------------------
    tracer = Tracer(Timeline(hvd, run.world))
    settings = toolbox.settings(run, device) | horovod_setup.settings(hvd, options, wire_type)
    code = train(
        run,
        Strategy(gather, toolbox.placement(run, device), step, evaluate, state, restore, settings, tracer),
    )

    # 8. Leave the group ---------------------------------------------------------------------------
    # Together: mpirun ends the others as soon as one process is gone with an exit code such as 75.
    if code != EXIT_FAILED:
        hvd.join()
        hvd.shutdown()
    return code


if __name__ == "__main__":
    leave(guarded(main, topology.launched_rank()))
