"""The bare PyTorch loop that our step is raced against: the same model, trained as a script of one's own would.

    python benchmarks/bare_torch.py recipe.json
    torchrun --nproc-per-node=2 benchmarks/bare_torch.py recipe.json          (hand-written DDP)

recipe.json: a recipe in the shape of its TOML file. Prints one JSON line a window of `run.log_every` steps.
"""

import json
import os
import resource
import sys
import sysconfig
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from models.resnet_torch import ResNet
from models.specs import GptSpec, ResNetSpec
from models.transformer_torch import GPT

recipe = json.loads(Path(sys.argv[1]).read_text())
data, rule, sizes = recipe["data"], recipe["optimizer"], recipe["model"]
is_image = sizes.pop("family") == "resnet"
rank, workers = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
has_gpu = torch.cuda.is_available()
device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if has_gpu else torch.device("cpu")
torch.set_num_threads(1)
torch.set_default_dtype(getattr(torch, recipe["precision"]))

# The data, in memory and ready for the model: inputs and targets of all samples.
if data["source"] == "digits":
    folder = Path((find_spec("sklearn").submodule_search_locations or [""])[0])  # type: ignore[union-attr]  # dev
    table = torch.from_numpy(np.loadtxt(folder / "datasets/data/digits.csv.gz", delimiter=","))
    grey = (table[:, :-1] / 8 - 1).to(torch.get_default_dtype()).view(-1, 1, 8, 8)
    inputs = F.interpolate(grey, sizes["image_size"], mode="bilinear").repeat(1, 3, 1, 1)
    targets = table[:, -1].long()
elif data["source"] == "stdlib":
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"test", "tests", "site-packages", "dist-packages"}
    text = b"".join(f.read_bytes() for f in root.rglob("*.py") if not skipped & {*f.relative_to(root).parts})
    windows = torch.frombuffer(bytearray(text), dtype=torch.uint8).unfold(0, sizes["context"] + 1, sizes["context"])
    inputs, targets = windows[:, :-1], windows[:, 1:]
else:
    sys.exit(f"{data['source']}: the bare loop has digits and stdlib only")
inputs, targets = inputs.to(device), targets.to(device)

if workers > 1:
    torch.distributed.init_process_group("nccl" if has_gpu else "gloo")
torch.manual_seed(rank)
model = (ResNet(ResNetSpec(**sizes)) if is_image else GPT(GptSpec(**sizes))).to(device)
replica = DistributedDataParallel(model, gradient_as_bucket_view=True) if workers > 1 else model
common = {"lr": rule["learning_rate"], "weight_decay": rule["weight_decay"]}
if rule["name"] == "sgd":
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), momentum=rule["momentum"], **common)
else:
    optimizer = torch.optim.AdamW(model.parameters(), betas=rule["betas"], eps=rule["eps"], **common)

window_start, last = time.perf_counter(), 0
for step in range(1, recipe["steps"] + 1):
    chosen = torch.randint(len(inputs), (data["global_batch"] // workers,), device=device)
    batch, labels = inputs[chosen], targets[chosen].long()
    logits = replica(batch if is_image else batch.int()).flatten(0, -2)
    loss = F.cross_entropy(logits, labels.flatten(), label_smoothing=rule["label_smoothing"])
    optimizer.zero_grad()
    loss.backward()
    if rule["clip_norm"]:
        torch.nn.utils.clip_grad_norm_(model.parameters(), rule["clip_norm"])
    optimizer.step()
    if step == 1 or step % recipe["run"]["log_every"] == 0:
        row = {"step": step, "loss": loss.item(), "step_time_s": (time.perf_counter() - window_start) / (step - last)}
        row["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        row["since_start_s"] = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        if rank == 0:
            print(json.dumps(row), flush=True)
        window_start, last = time.perf_counter(), step
