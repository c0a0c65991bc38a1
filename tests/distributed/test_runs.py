"""Each strategy from end to end, as its users start it."""

import json
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from telemetry.run_log import read_rows
from telemetry.tensorboard import Event
from training import checkpoint
from training.state import State

pytestmark = pytest.mark.timeout(300)
STRATEGIES = ("torch-single", "torch-ddp", "torch-horovod", "tf-single", "tf-mirrored", "tf-horovod")
RANKS = {"torch-ddp": 2, "torch-horovod": 2, "tf-horovod": 2}
"""Processes of a run, where it is not one."""
WORKERS = {**RANKS, "tf-mirrored": 2}
LAUNCHERS = {"torch-ddp": "torchrun", "torch-horovod": "mpirun", "tf-horovod": "mpirun"}
EXACT = ("step", "loss", "learning_rate", "grad_norm", "sample_digest", "samples", "tokens")
TIMES = ("step_time_s", "data_time_s", "samples_per_s", "tokens_per_s")


def training_rows(run_dir: Path) -> list[dict]:
    rows = [row for row in read_rows(run_dir / "metrics.jsonl") if "loss" in row]
    return [{key: row[key] for key in EXACT} for row in rows]


def final_state(run_dir: Path) -> State:
    return checkpoint.load(run_dir / "checkpoints" / "step-00000006")[0]


def assert_alike(ours: State, theirs: State, tolerance: float) -> None:
    """Parameters and moments; the running statistics hang on when they were averaged."""
    for mine, other in [
        (ours.parameters, theirs.parameters),
        *((ours.moments[moment], theirs.moments[moment]) for moment in theirs.moments),
    ]:
        assert mine.keys() == other.keys()
        for name, value in other.items():
            np.testing.assert_allclose(mine[name], value, rtol=0, atol=tolerance, err_msg=name)


def marks(*names: str) -> list[pytest.MarkDecorator]:
    """For a test that reads these runs."""
    needs_horovod = any("horovod" in name for name in names)
    return [pytest.mark.runs(*names), *([pytest.mark.horovod] if needs_horovod else [])]


def each(suffix: str = ""):
    """A case for each strategy that reads its own runs only."""
    cases = []
    for name in STRATEGIES:
        names = (name, f"{name} {suffix}") if suffix else (name,)
        cases.append(pytest.param(name, marks=marks(*names), id=name))
    return pytest.mark.parametrize("strategy", cases)


@each()
def test_a_run_directory_is_complete(strategy: str, done) -> None:
    (run,) = done
    assert run.code == 0, run.errors
    names = {path.name for path in run.run_dir.iterdir()}
    timings = {f"timing-{rank}.jsonl" for rank in range(RANKS.get(strategy, 1))}
    assert names == {
        *("run.json", "status.json", "metrics.jsonl", "tensorboard", "checkpoints", ".ranks", ".claim"),
        *(f"telemetry-{os.uname().nodename}.jsonl", "summary.json", "usage.jsonl"),
        *timings,
    }
    assert json.loads((run.run_dir / "status.json").read_text()) == {
        "state": "completed",
        "step": 6,
        "reason": None,
    }
    assert checkpoint.complete_steps(run.run_dir / "checkpoints") == [6]
    for name in timings:
        rows = read_rows(run.run_dir / name)
        assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
        assert all(row["steps"] == 1 and row["step_time_s"] > row["data_time_s"] >= 0 for row in rows)


@each()
def test_its_rows_have_every_key(strategy: str, done) -> None:
    rows = read_rows(done[0].run_dir / "metrics.jsonl")
    *training, evaluation = rows
    assert [row["step"] for row in training] == [1, 2, 3, 4, 5, 6]
    for row in training:
        assert set(row) >= {*EXACT, *TIMES}
        assert all(np.isfinite(row[key]) for key in ("loss", "learning_rate", "grad_norm", "step_time_s"))
    counts_tokens = training[0]["tokens"] is not None
    assert counts_tokens == strategy.endswith("-single")  # the ones that train the GPT here
    assert evaluation["step"] == 6
    assert 0 <= evaluation["eval_accuracy"] <= 1
    assert evaluation["eval_loss"] > 0
    if not counts_tokens:
        assert evaluation["eval_count"] == 359  # whatever the number of workers: each held-out digit once


@each()
def test_its_run_json_says_what_it_was(strategy: str, done) -> None:
    content = json.loads((done[0].run_dir / "run.json").read_text())
    workers = WORKERS.get(strategy, 1)
    assert (content["strategy"], content["workers"], content["accumulation"]) == (strategy, workers, 1)
    assert content["micro_batches"] == workers
    assert len(content["recipe_id"]) == 16
    assert content["recipe"]["steps"] == 6
    assert set(content["digests"]) == {"data", "sample_order", "learning_rates", "initial_parameters"}
    (segment,) = content["segments"]
    assert segment["launcher"] == LAUNCHERS.get(strategy, "direct")
    assert segment["first_step"] == 0
    framework = "torch" if strategy.startswith("torch") else "tensorflow"
    settings = segment["settings"]
    assert (settings["framework"], settings["device"], settings["tf32"]) == (framework, "cpu", False)
    # One thread a worker: tf-mirrored drives two in its one process.
    assert settings["threads"] == (workers if strategy == "tf-mirrored" else 1)
    assert segment["versions"][framework]
    assert segment["command"][:2] == ["-m", f"distributed.{strategy.replace('-', '_')}"]


def events(path: Path) -> Iterator[Event]:
    """The records of an event file: eight bytes of length, a checksum of four, the event, another checksum."""
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


@each()
def test_its_scalars_are_in_tensorboard(strategy: str, done) -> None:
    (path,) = (done[0].run_dir / "tensorboard").glob("events.*")  # telemetry has a folder of its own there
    shown = {(v.tag, event.step): v.simple_value for event in events(path) for v in event.summary.value}
    for row in training_rows(done[0].run_dir):
        assert shown["loss", row["step"]] == pytest.approx(row["loss"], rel=1e-6)
    assert ("eval_loss", 6) in shown


@pytest.mark.parametrize(
    "pair",
    [
        pytest.param(pair, marks=marks(*pair), id=" and ".join(pair))
        for pair in (
            ("torch-single", "tf-single"),
            ("torch-ddp", "tf-mirrored"),
            ("torch-horovod", "torch-ddp"),
            ("tf-horovod", "tf-mirrored"),
        )
    ],
)
def test_the_frameworks_say_the_same_at_equal_workers(pair: tuple[str, str], done) -> None:
    first, second = (run.run_dir for run in done)
    ours, theirs = (json.loads((folder / "run.json").read_text()) for folder in (first, second))
    for key in ("recipe_id", "recipe", "parameter_count", "digests", "training_flops_per_sample"):
        assert ours[key] == theirs[key], key
    assert_alike(final_state(first), final_state(second), 1e-10)
    # Running statistics are each worker's own until they are averaged, for the evaluation and for the checkpoint.
    for name, value in final_state(second).buffers.items():
        np.testing.assert_allclose(final_state(first).buffers[name], value, rtol=0, atol=1e-10, err_msg=name)
    ours, theirs = (read_rows(folder / "metrics.jsonl")[-1] for folder in (first, second))
    assert ours["eval_loss"] == pytest.approx(theirs["eval_loss"], rel=1e-10)
    assert (ours["eval_accuracy"], ours["eval_count"]) == (theirs["eval_accuracy"], theirs["eval_count"])


@each("stopped")
def test_a_stopped_run_is_preempted_with_code_75_and_a_checkpoint(strategy: str, done) -> None:
    _, stopped = done
    assert stopped.code == 75, stopped.errors
    status = json.loads((stopped.run_dir / "status.json").read_text())
    assert status == {"state": "preempted", "step": 3, "reason": "--stop-after 3"}
    assert checkpoint.complete_steps(stopped.run_dir / "checkpoints") == [3]


@each("resumed")
def test_a_resumed_run_is_to_the_last_bit_the_one_that_was_never_stopped(strategy: str, done) -> None:
    whole, resumed = done
    assert resumed.code == 0, resumed.errors
    assert training_rows(resumed.run_dir) == training_rows(whole.run_dir)
    assert_alike(final_state(resumed.run_dir), final_state(whole.run_dir), 0.0)
    for rank in range(RANKS.get(strategy, 1)):
        steps = [row["step"] for row in read_rows(resumed.run_dir / f"timing-{rank}.jsonl")]
        assert steps == [1, 2, 3, 4, 5, 6]
    content = json.loads((resumed.run_dir / "run.json").read_text())
    assert [segment["first_step"] for segment in content["segments"]] == [0, 3]
    assert json.loads((resumed.run_dir / "status.json").read_text())["state"] == "completed"


CROSSINGS = {
    "torch-ddp resumed as tf-single": ("torch-ddp", "tf-single"),
    "tf-mirrored resumed as torch-single": ("tf-mirrored", "torch-single"),
    "torch-horovod resumed as tf-mirrored": ("torch-horovod", "tf-mirrored"),
    "tf-horovod resumed as torch-horovod": ("tf-horovod", "torch-horovod"),
}


@pytest.mark.parametrize(
    ("crossing", "other"),
    [
        pytest.param(name, other, marks=marks(first, name), id=name)
        for name, (first, other) in CROSSINGS.items()
    ],
)
def test_a_run_of_two_workers_goes_on_under_another_strategy(crossing: str, other: str, done) -> None:
    whole, crossed = done
    assert crossed.code == 0, crossed.errors
    assert_alike(final_state(crossed.run_dir), final_state(whole.run_dir), 1e-10)
    for ours, theirs in zip(training_rows(crossed.run_dir), training_rows(whole.run_dir), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-10)
        assert ours["sample_digest"] == theirs["sample_digest"]
    first, second = json.loads((crossed.run_dir / "run.json").read_text())["segments"]
    assert (first["workers"], first["accumulation"]) == (2, 1)
    workers = WORKERS.get(other, 1)
    assert (second["strategy"], second["workers"], second["accumulation"]) == (other, workers, 2 // workers)


@pytest.mark.runs("torch-single", "torch-single eager")
def test_eager_torch_is_the_same_run(done) -> None:
    graph, eager = done
    assert eager.code == 0, eager.errors
    assert training_rows(eager.run_dir) == training_rows(graph.run_dir)
    assert json.loads((eager.run_dir / "run.json").read_text())["segments"][0]["eager"] is True


@pytest.mark.runs("tf-single", "tf-single eager")
def test_eager_tensorflow_is_the_same_run(done) -> None:
    graph, eager = done
    assert eager.code == 0, eager.errors
    assert (
        json.loads((eager.run_dir / "run.json").read_text())["segments"][0]["settings"]["compiled"] is False
    )
    for ours, theirs in zip(training_rows(eager.run_dir), training_rows(graph.run_dir), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-12)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-11)
    assert_alike(final_state(eager.run_dir), final_state(graph.run_dir), 1e-12)


@pytest.mark.runs("torch-single", "torch-single loader")
def test_loader_processes_bring_the_same_batches(done) -> None:
    inside, outside = done
    assert outside.code == 0, outside.errors
    assert training_rows(outside.run_dir) == training_rows(inside.run_dir)
    assert_alike(final_state(outside.run_dir), final_state(inside.run_dir), 0.0)


# TensorFlow says once a process that oneDNN is on, whatever its log level, before any code of ours could stop it.
ONEDNN = re.compile(
    r"WARNING: All log messages before absl::InitializeLog|I0000 .* oneDNN custom operations are on"
)
QUIET = (*STRATEGIES, "torch-single loader", "torch-ddp stopped", "torch-horovod stopped", "tf-single eager")
quiet = pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name), id=name) for name in QUIET])


@quiet
def test_no_process_outlives_its_run(name: str, done) -> None:
    assert done[0].orphans == []


@quiet
def test_a_run_says_nothing_but_its_steps(name: str, done) -> None:
    (run,) = done
    lines = [line for line in (run.output + run.errors).splitlines() if line and not ONEDNN.match(line)]
    steps = [line for line in lines if line.startswith("step ")]
    rest = [line for line in lines if not line.startswith("step ")]
    assert steps
    assert [line.partition(": ")[0] for line in rest] == ["telemetry"]
