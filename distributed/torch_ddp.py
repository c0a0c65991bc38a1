"""torch-ddp: DistributedDataParallel, one process a worker.

torchrun --nproc-per-node=8 -m distributed.torch_ddp --recipe digits-resnet18 --run-dir runs/a
"""

from distributed import topology
from distributed.network import prepare_network
from recipes.recipe import HALF_TYPES
from training import communication, restart, stopping
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
    performance = run.recipe.performance
    static_graph = performance.static_graph and run.exchanges
    replica = DistributedDataParallel(
        model,
        gradient_as_bucket_view=True,
        **toolbox.LOCAL_BUFFERS,
        bucket_cap_mb=performance.bucket_mib or None,
        static_graph=static_graph,
    )
    optimizer = Optimizer(model, run, loss_factor=run.workers)

    # 4. Take one step -----------------------------------------------------------------------------
    # DDP takes the mean over the workers; the loss is divided by the global count, so it is their sum we want.
    # What travels compressed is a worker's share in that sum, in fp16 times the loss scale, as it is in the others.
    compression = communication.wire_type(performance, run.workers, run.exchanges)
    excess = 1 if run.recipe.precision == "fp16" else run.workers  # of a gradient over that share

    def compressed(state: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        gradients = bucket.buffer()
        wire = gradients.div_(excess).to(getattr(torch, HALF_TYPES[compression]))
        arrival = dist.all_reduce(wire, async_op=True).get_future()
        return arrival.then(lambda sums: gradients.copy_(sums.value()[0]).mul_(excess / run.workers))

    if compression != "none":
        replica.register_comm_hook(None, compressed)

    # A static graph is recorded in the first backward pass, which fails in no_sync (pytorch/pytorch#187732). So all of
    # the first step's are exchanged: the mean of what is a mean already changes nothing.
    is_recording = static_graph

    def step(placed: toolbox.Placed, learning_rate: float, report: bool) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal is_recording
        optimizer.zero_gradients()
        losses = []
        for number, (inputs, targets) in enumerate(placed.micro_batches(), start=1):
            is_last_micro_batch = number == run.accumulation and run.exchanges
            with nullcontext() if is_last_micro_batch or is_recording else replica.no_sync():
                loss = toolbox.loss_sum(replica, inputs, targets, run.recipe.optimizer.label_smoothing)
                loss = loss / placed.target_count
                optimizer.scaled(loss * run.workers).backward()
            losses.append(loss.detach())
        is_recording = False
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
    bucket_mib = performance.bucket_mib or communication.DDP_BUCKET_MIB
    used = communication.in_effect(compression, bucket_mib, static_graph)
    settings, tracer = toolbox.settings(run, device) | {"communication": used}, Tracer()
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
