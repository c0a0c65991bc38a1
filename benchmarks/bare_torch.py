"""The bare PyTorch loop that our step is raced against: the same model, trained as a script of one's own would.

    python benchmarks/bare_torch.py recipe.json
    torchrun --nproc-per-node=2 benchmarks/bare_torch.py recipe.json          (hand-written DDP)
    mpirun -np 2 python benchmarks/bare_torch.py recipe.json horovod          (hvd.DistributedOptimizer)

recipe.json: a recipe in the shape of its TOML file. Prints one JSON line a window of `run.log_every` steps.
"""

import importlib
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from benchmarks.bare_shared import Windows, load
from models.resnet_torch import ResNet
from models.specs import GptSpec, ResNetSpec
from models.transformer_torch import GPT

recipe = json.loads(Path(sys.argv[1]).read_text())
data, rule, sizes = recipe["data"], recipe["optimizer"], recipe["model"]
is_image = sizes.pop("family") == "resnet"
rank, local_rank = (int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK"))
workers = int(os.environ.get("WORLD_SIZE", 1))
hvd = importlib.import_module("horovod.torch") if "horovod" in sys.argv else None
if hvd:
    hvd.init()
    rank, local_rank, workers = hvd.rank(), hvd.local_rank(), hvd.size()
has_gpu = torch.cuda.is_available()
device = torch.device("cuda", local_rank) if has_gpu else torch.device("cpu")
dtype = getattr(torch, recipe["precision"])
torch.set_num_threads(1)
torch.set_default_dtype(dtype)
torch.manual_seed(rank)
if workers > 1 and not hvd:
    torch.distributed.init_process_group("nccl" if has_gpu else "gloo")

inputs, targets = (torch.from_numpy(array).to(device) for array in load(recipe))
if is_image:
    inputs = inputs.permute(0, 3, 1, 2).contiguous()
model = (ResNet(ResNetSpec(**sizes)) if is_image else GPT(GptSpec(**sizes))).to(device)
for table in (p for p in model.parameters() if p.ndim == 2):  # PyTorch's own make logits in the hundreds
    torch.nn.init.normal_(table, std=0.02)
uses_ddp = torch.distributed.is_initialized()
replica = DistributedDataParallel(model, gradient_as_bucket_view=True) if uses_ddp else model
lr, decay = rule["learning_rate"], rule["weight_decay"]
optimizer: torch.optim.Optimizer
if rule["name"] == "sgd":
    optimizer = torch.optim.SGD(model.parameters(), lr, rule["momentum"], weight_decay=decay)
else:
    optimizer = torch.optim.AdamW(model.parameters(), lr, rule["betas"], rule["eps"], decay)
if hvd:
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    optimizer = hvd.DistributedOptimizer(optimizer, model.named_parameters(), op=hvd.Average)

share = data["global_batch"] // workers
windows = Windows()
for step in range(1, recipe["steps"] + 1):
    is_fixed = data["source"] == "synthetic"
    chosen = slice(share) if is_fixed else torch.randint(len(inputs), (share,), device=device)
    batch, labels = inputs[chosen], targets[chosen].long()
    batch = batch.to(dtype).sub_(127.5).div_(64) if is_image else batch.long()
    logits, smoothing = replica(batch), rule["label_smoothing"]
    loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), label_smoothing=smoothing)
    optimizer.zero_grad()
    loss.backward()
    if hvd:
        optimizer.synchronize()
    if rule["clip_norm"]:
        torch.nn.utils.clip_grad_norm_(model.parameters(), rule["clip_norm"])
    with optimizer.skip_synchronize() if hvd else nullcontext():
        optimizer.step()
    if step == 1 or step % recipe["run"]["log_every"] == 0:
        windows.report(step, loss.item())
