"""Probe: an all-reduce of PyTorch tensors among the ranks that a launcher started. Prints one JSON line.

torchrun --nproc-per-node=2 -m distributed.allreduce_torch gloo          (or nccl)
mpirun -np 2 python -m distributed.allreduce_torch horovod
srun --nodes=2 --ntasks-per-node=1 python -m distributed.allreduce_torch gloo
"""

import sys

import torch

from distributed import topology
from distributed.allreduce import ELEMENTS, measure, report
from distributed.network import prepare_network
from training.process import die_with_parent


def main() -> int:
    """Returns 0, or raises what the runtime raises."""
    die_with_parent()
    runtime = sys.argv[1]
    torch.set_num_threads(1)
    if runtime == "horovod":
        import horovod.torch as hvd

        hvd.init()
        rank, ranks = hvd.rank(), hvd.size()
        device = _device(hvd.local_rank(), uses_gpu=bool(hvd.nccl_built()))
        ones = torch.ones(ELEMENTS, device=device)

        def horovod_reduce(elements: int) -> float:
            return _wait(hvd.allreduce(ones[:elements], name=f"probe.{elements}", op=hvd.Sum))

        figures, found = measure(horovod_reduce, ranks), horovod_reduce(ELEMENTS)
        hvd.shutdown()
        return report(figures, found, rank)
    import torch.distributed as dist

    world = topology.of_torch("torch-ddp")
    prepare_network(world)
    dist.init_process_group(runtime)
    ones = torch.ones(ELEMENTS, device=_device(world.gpu_index, uses_gpu=runtime == "nccl"))

    def all_reduce(elements: int) -> float:
        sums = ones[:elements].clone()
        dist.all_reduce(sums)
        return _wait(sums)

    rank = dist.get_rank()
    figures = measure(all_reduce, dist.get_world_size())
    found = all_reduce(ELEMENTS)
    dist.destroy_process_group()
    return report(figures, found, rank)


def _device(local_rank: int, *, uses_gpu: bool) -> torch.device:
    if not (uses_gpu and torch.cuda.is_available()):
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _wait(tensor: torch.Tensor) -> float:
    """Until the tensor is there; its last element."""
    return float(tensor[-1])


if __name__ == "__main__":
    raise SystemExit(main())
