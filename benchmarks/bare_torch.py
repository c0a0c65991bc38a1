"""The bare PyTorch loop that our step is raced against: the same model, trained as a script of one's own would.

    python benchmarks/bare_torch.py recipe.json
    torchrun --nproc-per-node=2 benchmarks/bare_torch.py recipe.json          (hand-written DDP)

recipe.json: a recipe in the shape of its TOML file. Prints one JSON line a window of `run.log_every` steps.
"""

import json
import os
import sys
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
rank, workers = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
has_gpu = torch.cuda.is_available()
device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if has_gpu else torch.device("cpu")
dtype = getattr(torch, recipe["precision"])
torch.set_num_threads(1)
torch.set_default_dtype(dtype)
torch.manual_seed(rank)
if workers > 1:
    torch.distributed.init_process_group("nccl" if has_gpu else "gloo")

inputs, targets = (torch.from_numpy(array).to(device) for array in load(recipe))
if is_image:
    inputs = inputs.permute(0, 3, 1, 2).contiguous()
model = (ResNet(ResNetSpec(**sizes)) if is_image else GPT(GptSpec(**sizes))).to(device)
for table in (p for p in model.parameters() if p.ndim == 2):  # PyTorch's own make logits in the hundreds
    torch.nn.init.normal_(table, std=0.02)
replica = DistributedDataParallel(model, gradient_as_bucket_view=True) if workers > 1 else model
lr, decay = rule["learning_rate"], rule["weight_decay"]
optimizer: torch.optim.Optimizer
if rule["name"] == "sgd":
    optimizer = torch.optim.SGD(model.parameters(), lr, rule["momentum"], weight_decay=decay)
else:
    optimizer = torch.optim.AdamW(model.parameters(), lr, rule["betas"], rule["eps"], decay)

windows = Windows()
for step in range(1, recipe["steps"] + 1):
    chosen = torch.randint(len(inputs), (data["global_batch"] // workers,), device=device)
    batch, labels = inputs[chosen], targets[chosen].long()
    batch = batch.to(dtype).sub_(127.5).div_(64) if is_image else batch.long()
    logits, smoothing = replica(batch), rule["label_smoothing"]
    loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), label_smoothing=smoothing)
    optimizer.zero_grad()
    loss.backward()
    if rule["clip_norm"]:
        torch.nn.utils.clip_grad_norm_(model.parameters(), rule["clip_norm"])
    optimizer.step()
    if step == 1 or step % recipe["run"]["log_every"] == 0:
        windows.report(step, loss.item())
