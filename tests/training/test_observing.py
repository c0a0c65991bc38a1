"""The sampler beside a run: what it adds to the directory, and that nothing of it reaches the training."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from telemetry import summary
from telemetry.run_log import read_rows
from training.world import World

TELEMETRY = {f"telemetry-{os.uname().nodename}.jsonl", "summary.json", "usage.jsonl"}


def losses(run_dir: Path) -> list[float]:
    return [row["loss"] for row in read_rows(run_dir / "metrics.jsonl") if "loss" in row]


def names(run_dir: Path) -> set[str]:
    return {path.name for path in run_dir.iterdir()}


def test_a_run_has_its_telemetry_and_sums_it_up(train_tiny, capfd) -> None:
    code, with_it = train_tiny(name="with", telemetry_interval_s=0.1)
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("telemetry: ")]
    assert code == 0
    assert names(with_it.run.run_dir) >= TELEMETRY
    (path,) = with_it.run.run_dir.glob("telemetry-*.jsonl")
    kinds = [row["kind"] for row in read_rows(path)]
    assert (kinds[0], kinds[-1]) == ("start", "end")
    assert len(told) == 1
    assert " CPU " in told[0]
    code, without = train_tiny(name="without", telemetry_interval_s=0)
    assert not names(without.run.run_dir) & TELEMETRY
    assert "telemetry" not in capfd.readouterr().err
    assert losses(without.run.run_dir) == losses(with_it.run.run_dir)


def test_each_node_has_one_sampler(train_tiny) -> None:
    second = World(1, 1, 2, 2, (1,), "torchrun")
    _, fake = train_tiny(world=second, telemetry_interval_s=0.1)
    assert names(fake.run.run_dir) == {"timing-1.jsonl"}
    on_another_node = World(2, 0, 3, 3, (2,), "torchrun")
    _, fake = train_tiny(name="other", world=on_another_node, telemetry_interval_s=0.1)
    assert names(fake.run.run_dir) == {"timing-2.jsonl", f"telemetry-{os.uname().nodename}.jsonl"}


def test_a_killed_sampler_is_one_line(train_tiny, capfd) -> None:
    def kill_it(step: int) -> None:
        if step == 5:
            for child in psutil.Process().children():
                if "telemetry.sampler" in child.cmdline():
                    child.send_signal(signal.SIGKILL)

    code, killed = train_tiny(name="killed", hook=kill_it, telemetry_interval_s=0.1)
    assert code == 0
    lines = capfd.readouterr().err.splitlines()
    assert "trimaran: telemetry: the sampler ended early with signal 9" in lines
    _, plain = train_tiny(name="plain")
    assert losses(killed.run.run_dir) == losses(plain.run.run_dir)


def test_a_summary_that_fails_is_one_line(train_tiny, capfd, monkeypatch) -> None:
    def fail(run_dir: Path) -> list[str]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(summary, "write_summary", fail)
    code, _ = train_tiny(telemetry_interval_s=0.1)
    assert code == 0
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("telemetry: ")]
    assert told == ["telemetry: no summary: OSError: [Errno 28] No space left on device"]


@pytest.mark.parametrize("interval_s", [0.05, -1.0, 4000.0, float("nan")])
def test_an_interval_that_makes_no_sense_is_refused(open_tiny, interval_s: float) -> None:
    with pytest.raises(
        Exception, match=r"^--telemetry-interval-s: found .* expected 0.1 to 3600 seconds, or 0"
    ):
        open_tiny(telemetry_interval_s=interval_s)
