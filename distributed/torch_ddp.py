"""torch-ddp: DistributedDataParallel, one process a worker.

torchrun --nproc-per-node=8 -m distributed.torch_ddp --recipe digits-resnet18 --run-dir runs/a
"""

from distributed import topology
from distributed.network import prepare_network
from training import restart, stopping
from training.loop import Strategy, train
from training.options import Options, parse
from training.problems import EXIT_FAILED
from training.process import die_with_parent, guarded, leave
from training.run import open_run
from training.state import State

STRATEGY = "torch-ddp"


def main() -> int:
    # 1. Read the command --------------------------------------------------------------------------
    # Frameworks are imported below: a mistyped key costs milliseconds, and loader processes stay small.
    die_with_parent()
    options = parse(Options, "torchrun … -m distributed.torch_ddp")
    run = open_run(options, STRATEGY, topology.of_torch(STRATEGY))
    stopping.listen(run)
    import atexit
    from contextlib import nullcontext, suppress

    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from distributed import toolbox_torch as toolbox
    from distributed.optimizer_torch import Optimizer
    from distributed.profile_torch import Tracer
    from models.layout_torch import named_buffers

    # 2. Join the group ----------------------------------------------------------------------------
    device = toolbox.choose_device(run)
    prepare_network(run.world)
    backends = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    # A torchrun that restarts us keeps its store, in which a rank would find addresses of those that were before.
    store, rank, size = next(dist.rendezvous("env://"))
    dist.init_process_group(
        backends, store=dist.PrefixStore(f"restart {restart.number()}", store), rank=rank, world_size=size
    )

    # Numbers travel in host memory, over Gloo: what a GPU has yet to do is not waited for.
    def gather(numbers):
        ours = torch.from_numpy(numbers)
        rows = [torch.empty_like(ours) for _ in range(run.workers)]
        dist.all_gather(rows, ours)
        return torch.stack(rows).numpy()

    # 3. Place the model ---------------------------------------------------------------------------
    # Every rank restores the same state; BatchNorm's statistics stay each worker's own until they are averaged.
    model = toolbox.build_model(run, device)
    replica = DistributedDataParallel(
        model,
        gradient_as_bucket_view=True,
        **toolbox.LOCAL_BUFFERS,
        bucket_cap_mb=run.recipe.performance.bucket_mib or None,
    )
    optimizer = Optimizer(model, run, loss_factor=run.workers)

    # 4. Take one step -----------------------------------------------------------------------------
    # DDP takes the mean over the workers; the loss is divided by the global count, so it is their sum we want.
    def step(placed: toolbox.Placed, learning_rate: float, report: bool) -> tuple[torch.Tensor, torch.Tensor]:
        optimizer.zero_gradients()
        losses = []
        for number, (inputs, targets) in enumerate(placed.micro_batches(), start=1):
            with nullcontext() if number == run.accumulation and run.exchanges else replica.no_sync():
                loss = toolbox.loss_sum(replica, inputs, targets, run.recipe.optimizer.label_smoothing)
                loss = loss / placed.target_count
                optimizer.scaled(loss * run.workers).backward()
            losses.append(loss.detach())
        loss = sum(losses)
        if report and run.exchanges:
            dist.all_reduce(loss)
        return loss, optimizer.apply(learning_rate)

    # 5. Evaluate ----------------------------------------------------------------------------------
    def evaluate(feed):
        average_statistics()
        sums = toolbox.evaluation_sums(model, feed, device)
        dist.all_reduce(sums)
        return tuple(sums.tolist())

    # 6. Save and restore --------------------------------------------------------------------------
    @torch.no_grad()
    def average_statistics():
        for buffer in named_buffers(model).values():
            dist.all_reduce(buffer)
            buffer /= run.workers

    def state(step_number: int, into: State) -> State | None:
        average_statistics()
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
    # Together: a launcher may end the others as soon as one process is gone with an exit code such as 75.
    if code != EXIT_FAILED:
        with suppress(RuntimeError):  # a rank that failed has told why itself
            dist.barrier()
    # DDP would free the group with the GIL held, for which Gloo's last thread may wait: keep it till the very end.
    atexit.register(lambda group: None, dist.group.WORLD)
    dist.destroy_process_group()
    return code


if __name__ == "__main__":
    leave(guarded(main, topology.launched_rank()))
