"""Real runs of the scripts, shared by all tests: a framework takes seconds to import, so each is made once.

A test names what it reads, `@pytest.mark.runs("torch-single", …)`; what is named by no collected test is not run.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).parent
RESNET, GPT = (["--recipe", str(HERE / f"tiny-{family}.toml")] for family in ("resnet", "gpt"))
STOP, RESUME = ["--stop-after", "3"], ["--resume"]
TORCH, TF = ["distributed.torch_single"], ["distributed.tf_single"]
MIRRORED = ["distributed.tf_mirrored", "--workers", "2"]
DDP = ["launchers.train", "torch-ddp", "--workers", "2"]
TORCH_HVD, TF_HVD = (["launchers.train", f"{name}-horovod", "--workers", "2"] for name in ("torch", "tf"))
HOROVODRUN = ["--launcher", "horovodrun"]
TUNED = [
    "--fusion-threshold-mib",
    "1",
    "--cycle-time-ms",
    "2.5",
    "--compression",
    "fp16",
    "--stall-check-s",
    "30",
]
ALONE = ["--no-exchange"]
PROFILED = ["--profile", "--set", "steps=18", "run.log_every=6"]
BF16 = ["--set", "precision=bf16"]
STATIC = ["--accumulation", "3", "--set", "performance.static_graph=true", "performance.bucket_mib=1"]
SENT_AS = ["--set", "performance.bucket_mib=2", "--set"]
SENT_AS_BF16, SENT_AS_FP16 = (
    [*SENT_AS, f"performance.gradient_compression={kind}"] for kind in ("bf16", "fp16")
)
TIME_LIMIT_S = 240
COMMANDS: dict[str, list[str]] = {
    "tf-mirrored": [*MIRRORED, *RESNET],
    "tf-mirrored stopped": [*MIRRORED, *RESNET, *STOP],
    "tf-horovod": [*TF_HVD, *RESNET],
    "tf-horovod stopped": [*TF_HVD, *RESNET, *STOP],
    "torch-horovod": [*TORCH_HVD, *RESNET],
    "torch-horovod stopped": [*TORCH_HVD, *RESNET, *STOP],
    "torch-ddp": [*DDP, *RESNET],
    "torch-ddp stopped": [*DDP, *RESNET, *STOP],
    "tf-single stopped": [*TF, *GPT, *STOP],
    "torch-single stopped": [*TORCH, *GPT, *STOP],
    "tf-single": ["launchers.train", "tf-single", *GPT],
    "torch-single": [*TORCH, *GPT],
    "torch-single eager": [*TORCH, *GPT, "--eager"],
    "torch-single loader": [*TORCH, *GPT, "--set", "performance.loader_workers=2"],
    "tf-single eager": [*TF, *GPT, "--eager"],
    "torch-ddp bf16": [*DDP, *GPT, *BF16],
    "tf-mirrored bf16": [*MIRRORED, *GPT, *BF16],
    "torch-ddp static": [*DDP, *GPT, *STATIC],
    "torch-ddp sent as bf16": [*DDP, *GPT, *SENT_AS_BF16],
    "torch-ddp sent as fp16": [*DDP, *GPT, *SENT_AS_FP16],
    "torch-ddp sent as fp16 in fp16": [*DDP, *GPT, *SENT_AS_FP16, "precision=fp16"],
    "tf-mirrored sent as bf16": [*MIRRORED, *GPT, *SENT_AS_BF16],
    "torch-horovod sent as fp16": [*TORCH_HVD, *GPT, *SENT_AS_FP16],
    "tf-horovod sent as fp16": [*TF_HVD, *GPT, *SENT_AS_FP16],
    "tf-horovod over horovodrun": [*TF_HVD, *RESNET, *HOROVODRUN],
    "torch-horovod over horovodrun": [*TORCH_HVD, *RESNET, *HOROVODRUN],
    "torch-horovod tuned": [*TORCH_HVD, *RESNET, *TUNED, "--set", "performance.channels_last=true"],
    "tf-horovod tuned": [*TF_HVD, *RESNET, *TUNED],
    "torch-horovod adasum": [*TORCH_HVD, *RESNET, "--adasum"],
    "tf-horovod adasum": [*TF_HVD, *RESNET, "--adasum"],
    "torch-ddp alone": [*DDP, *RESNET, *ALONE],
    "torch-horovod alone": [*TORCH_HVD, *RESNET, *ALONE],
    "tf-mirrored alone": [*MIRRORED, *RESNET, *ALONE],
    "tf-horovod alone": [*TF_HVD, *RESNET, *ALONE],
    "torch-single alone": [*TORCH, *RESNET, *ALONE, "--set", "data.global_batch=12"],
    "torch-ddp profiled": [*DDP, *GPT, *PROFILED],
    "tf-mirrored profiled": [*MIRRORED, *GPT, *PROFILED],
    "torch-horovod profiled": [*TORCH_HVD, *GPT, *PROFILED],
    "tf-horovod profiled": [*TF_HVD, *GPT, *PROFILED],
    "torch-single profiled": [*TORCH, *GPT, *PROFILED, *ALONE],
    "tf-single profiled": [*TF, *GPT, *PROFILED, "--eager"],
    "tf-horovod resumed": [*TF_HVD, *RESUME],
    "torch-horovod resumed": [*TORCH_HVD, *RESUME],
    "tf-mirrored resumed": [*MIRRORED, *RESUME],
    "tf-single resumed": [*TF, *RESUME],
    "torch-ddp resumed": [*DDP, *RESUME],
    "torch-single resumed": [*TORCH, *RESUME],
    "torch-ddp resumed as tf-single": [*TF, *RESUME],
    "tf-mirrored resumed as torch-single": [*TORCH, *RESUME],
    "torch-horovod resumed as tf-mirrored": [*MIRRORED, *RESUME],
    "tf-horovod resumed as torch-horovod": [*TORCH_HVD, *RESUME],
}
"""What follows `python -m`. A resumed run goes on from a copy of the stopped one that its name begins with."""


@dataclass(frozen=True)
class Done:
    """How a run ended; `orphans` are the commands of processes that it left behind."""

    run_dir: Path
    code: int
    output: str
    errors: str
    orphans: list[list[str]]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "runs(*names): the runs of tests/distributed/conftest.py that a test reads"
    )


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    """Each named run with its `Done`, as a Future; they go on beside the first tests."""
    marks = [mark for item in request.session.items for mark in item.iter_markers("runs")]
    wanted = {name for mark in marks for name in mark.args}
    wanted |= {f"{name.partition(' ')[0]} stopped" for name in wanted if " resumed" in name}
    folder = tmp_path_factory.mktemp("runs")
    futures: dict[str, Future[Done]] = {}
    with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), 4)) as pool:
        for name, command in COMMANDS.items():
            if name in wanted:
                # In the order of COMMANDS, so what a run waits for is at work before it.
                before = futures[f"{name.partition(' ')[0]} stopped"] if " resumed" in name else None
                futures[name] = pool.submit(_run, command, folder / name.replace(" ", "-"), before)
        yield futures
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def done(request: pytest.FixtureRequest, runs: dict[str, Future]) -> list[Done]:
    """The runs that the test's mark names, in its order."""
    return [runs[name].result(TIME_LIMIT_S) for name in request.node.get_closest_marker("runs").args]


def _run(command: list[str], run_dir: Path, before: Future | None) -> Done:
    if before is not None:
        shutil.copytree(before.result().run_dir, run_dir)
    mark = f"{os.getpid()}-{run_dir}"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "TRIMARAN_TEST": mark}
    process = subprocess.Popen(
        [sys.executable, "-m", *command, "--run-dir", str(run_dir)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = process.communicate(timeout=TIME_LIMIT_S)
    finally:
        orphans = _left_behind(mark)
        for orphan in orphans:
            orphan.send_signal(signal.SIGKILL)
    commands = [orphan.info["cmdline"] for orphan in orphans]
    return Done(run_dir, process.returncode, output, errors, commands)


def _left_behind(mark: str) -> list[psutil.Process]:
    """Processes that still have the run's mark in their environment, a few seconds after its end."""
    for _ in range(50):
        alive = [
            process
            for process in psutil.process_iter(["environ", "cmdline", "status"])
            if (process.info["environ"] or {}).get("TRIMARAN_TEST") == mark
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ]
        if not alive:
            break
        time.sleep(0.1)
    return alive
