"""Runs over two nodes that are both this machine: one launchers.train on each, as without Slurm."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from launchers.prefixes import free_port

RESNET = ["--recipe", str(Path(__file__).parent / "tiny-resnet.toml")]
TIME_LIMIT_S = 120
Start = Callable[..., list[subprocess.Popen]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a strategy on both nodes, one worker each; returns the launchers. `second` are arguments of one alone."""
    started: list[subprocess.Popen] = []

    def start_it(strategy: str, *arguments: str, second: Sequence[str] = ()) -> list[subprocess.Popen]:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "launchers.train", strategy, *arguments]
        command += ["--nodes", "2", "--workers", "2", "--hosts", "127.0.0.1,127.0.0.1"]
        command += ["--port", str(free_port()), "--run-dir", str(tmp_path / "run")]
        new = [
            subprocess.Popen(
                [*command, "--node-rank", str(rank), *(second if rank else ())],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in (0, 1)
        ]
        started.extend(new)
        return new

    yield start_it
    for launcher in started:
        launcher.kill()  # its ranks die with it
    for launcher in started:
        launcher.communicate()


def ended(launchers: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit code and messages of each."""
    told = [launcher.communicate(timeout=TIME_LIMIT_S)[1] for launcher in launchers]
    return [(launcher.returncode, text) for launcher, text in zip(launchers, told, strict=True)]


def metrics(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.runs("tf-mirrored", "torch-ddp")
@pytest.mark.parametrize("strategy", ["tf-mirrored", "torch-ddp"])
def test_two_nodes_train_as_one_does(strategy: str, done, start: Start, tmp_path: Path) -> None:
    on_one_node = done[("tf-mirrored", "torch-ddp").index(strategy)]
    assert [code for code, _ in ended(start(strategy, *RESNET))] == [0, 0]
    ours, theirs = metrics(tmp_path / "run"), metrics(on_one_node.run_dir)
    for row, expected in zip(ours, theirs, strict=True):
        for key in ("loss", "grad_norm", "eval_loss"):
            if key in expected:
                assert row[key] == pytest.approx(expected[key], rel=1e-11, abs=0)
        assert row.get("sample_digest") == expected.get("sample_digest")
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    assert content["workers"] == 2
    assert len(list((tmp_path / "run").glob("timing-*.jsonl"))) == 2


def test_nodes_that_mean_different_runs_do_not_train(start: Start, tmp_path: Path) -> None:
    launchers = start("tf-mirrored", *RESNET, second=["--set", "seed=99"])
    (code, errors), (other_code, _) = ended(launchers)
    assert (code, other_code) == (2, 2), errors
    assert "recipe id: rank(s) 1 have another than rank 0" in errors


def test_a_warning_on_one_node_stops_both_at_one_step(start: Start, tmp_path: Path) -> None:
    launchers = start("tf-mirrored", *RESNET, "--set", "steps=100000")
    path = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + TIME_LIMIT_S
    while not path.exists() or path.read_bytes().count(b"\n") < 5:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    launchers[1].send_signal(signal.SIGUSR2)
    assert [code for code, _ in ended(launchers)] == [75, 75]
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert (status["state"], checkpoint.name) == ("preempted", f"step-{status['step']:08d}")
    assert status["reason"].startswith("SIGUSR2")
