import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from telemetry.progress import Progress
from telemetry.run_log import read_rows
from training import checkpoint, loop
from training.schedule import learning_rates
from training.world import World

EXACT = ("step", "loss", "learning_rate", "grad_norm", "sample_digest", "samples", "tokens")


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    """The lines that the progress display would show."""
    lines: list[str] = []
    monkeypatch.setattr(Progress, "message", lambda self, line: lines.append(line))
    return lines


def rows(run_dir: Path, kind: str = "loss") -> list[dict]:
    return [row for row in read_rows(run_dir / "metrics.jsonl") if kind in row]


def status(run_dir: Path) -> dict:
    return json.loads((run_dir / "status.json").read_text())


def exact(found: list[dict]) -> list[dict]:
    """What of the rows must be the same whenever the run is repeated: all but the times."""
    return [{key: row[key] for key in EXACT} for row in found]


def test_a_run_reports_what_it_did_and_is_completed(train_tiny, tmp_path: Path) -> None:
    code, fake = train_tiny()
    run_dir = tmp_path / "run"
    assert code == 0
    assert status(run_dir) == {"state": "completed", "step": 10, "reason": None}
    found = rows(run_dir)
    assert [row["step"] for row in found] == list(range(1, 11))
    rates = learning_rates(fake.run.recipe)
    assert [row["learning_rate"] for row in found] == rates.tolist() == [rate for rate, _ in fake.calls]
    order = loop.SampleOrder(fake.run.train_source.num_samples, 24, fake.run.recipe.seed)
    assert [row["sample_digest"] for row in found] == [order.digest(step) for step in range(10)]
    assert [row["samples"] for row in found] == [24 * step for step in range(1, 11)]
    assert [row["tokens"] for row in found] == [None] * 10
    for row in found:
        assert row["step_time_s"] >= row["data_time_s"] >= 0
        assert row["samples_per_s"] == pytest.approx(24 / row["step_time_s"])
    assert rows(run_dir, "eval_loss") == [
        {"step": 10, "eval_loss": 2.0, "eval_accuracy": 0.5, "eval_count": 359}
    ]
    assert [row["step"] for row in read_rows(run_dir / "timing-0.jsonl")] == list(range(1, 11))
    assert checkpoint.complete_steps(run_dir / "checkpoints") == [10]
    assert list((run_dir / "tensorboard").iterdir())
    assert not list(run_dir.glob("failure-*"))


def test_windows_end_at_what_is_due_and_only_there_the_host_waits(train_tiny, tmp_path: Path) -> None:
    intervals = ("run.log_every=4", "run.eval_every=3", "run.checkpoint_every=5", "run.keep_checkpoints=9")
    due = [1, 3, 4, 5, 6, 8, 9, 10]
    _, fake = train_tiny(*intervals)
    run_dir = tmp_path / "run"
    assert [step for step, (_, report) in enumerate(fake.calls, start=1) if report] == due
    # One loss a report, and each step's norm once: nothing else asks the device for a value.
    assert fake.waits == len(due) + 10
    timing = read_rows(run_dir / "timing-0.jsonl")
    assert [row["step"] for row in timing] == due
    assert [row["steps"] for row in timing] == np.diff([0, *due]).tolist()
    assert [row["step"] for row in rows(run_dir)] == due
    assert [row["step"] for row in rows(run_dir, "eval_loss")] == [3, 6, 9, 10]
    assert checkpoint.complete_steps(run_dir / "checkpoints") == [5, 10]


def test_between_reports_no_value_is_asked_for(train_tiny) -> None:
    _, fake = train_tiny("run.log_every=5")
    # Step 1 reports its loss and norm, then steps 2 to 5 at the fifth, 6 to 10 at the tenth.
    assert fake.waits_before == [0, 2, 2, 2, 2, 7, 7, 7, 7, 7]


@pytest.mark.parametrize(
    ("step", "values", "told"),
    [
        (1, (math.nan, math.nan), 1),
        (6, (math.nan, math.nan), 6),
        (6, (1.0, math.inf), 6),  # in the middle of a window, whose last loss is finite again
        (8, (math.inf, 1.0), 8),
    ],
)
def test_a_value_that_is_not_finite_fails_the_run_and_names_the_step(
    train_tiny, tmp_path: Path, capsys, step: int, values, told: int
) -> None:
    code, _ = train_tiny("run.log_every=4", hook=lambda current: values if current == step else None)
    run_dir = tmp_path / "run"
    assert code == 1
    assert status(run_dir)["state"] == "failed"
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("trimaran: ")]
    assert f"step {told}: the loss or its gradient is not finite" in line
    assert "optimizer.learning_rate" in line
    assert f"step {told}: " in status(run_dir)["reason"]
    assert checkpoint.complete_steps(run_dir / "checkpoints") == []
    last = rows(run_dir)[-1]
    assert last["step"] == max(1, 4 * math.ceil(step / 4) if step > 1 else 1)
    if not math.isfinite(values[0]) and last["step"] == step:
        assert last["loss"] is None
        assert last["loss_nonfinite"] == str(values[0])


def test_any_other_error_in_a_step_fails_the_run(train_tiny, tmp_path: Path, capsys) -> None:
    def hook(step: int) -> None:
        if step == 4:
            raise RuntimeError("the device is gone")

    code, _ = train_tiny(hook=hook)
    assert code == 1
    assert status(tmp_path / "run")["step"] == 3
    assert "rank 0 failed at step 3: RuntimeError: the device is gone" in capsys.readouterr().err
    assert "the device is gone" in (tmp_path / "run" / "failure-0.txt").read_text()


def use_full_device(path: Path) -> None:
    """From now on the disk is full for this file, whether it is open already or yet to be opened."""
    path.unlink()
    path.symlink_to("/dev/full")
    full = os.open("/dev/full", os.O_WRONLY)
    for link in Path("/proc/self/fd").iterdir():
        if os.path.lexists(link) and os.readlink(link).startswith(str(path)):
            os.dup2(full, int(link.name))
    os.close(full)


@pytest.mark.parametrize("name", ["timing-0.jsonl", "metrics.jsonl"])
def test_a_disk_that_is_full_in_the_middle_fails_the_run_in_one_line(
    train_tiny, tmp_path: Path, capsys, name: str
) -> None:
    code, _ = train_tiny(hook=lambda step: use_full_device(tmp_path / "run" / name) if step == 4 else None)
    assert code == 1
    assert "No space left on device" in status(tmp_path / "run")["reason"]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("trimaran: ")]
    assert "No space left on device" in line


def test_stop_after_is_a_preemption_with_a_checkpoint(train_tiny, tmp_path: Path) -> None:
    code, fake = train_tiny("run.log_every=4", stop_after=6)
    assert code == 75
    assert status(tmp_path / "run") == {"state": "preempted", "step": 6, "reason": "--stop-after 6"}
    assert len(fake.calls) == 6
    assert checkpoint.complete_steps(tmp_path / "run" / "checkpoints") == [6]
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 4, 6]


def test_stop_after_the_last_step_is_the_end(train_tiny, tmp_path: Path) -> None:
    code, _ = train_tiny(stop_after=10)
    assert code == 0
    assert status(tmp_path / "run")["state"] == "completed"


def test_a_resumed_run_is_the_run_that_was_never_stopped(train_tiny, tmp_path: Path) -> None:
    _, whole = train_tiny(name="whole")
    assert train_tiny(name="parts", stop_after=3)[0] == 75
    assert train_tiny(name="parts", resume=True, stop_after=7)[0] == 75
    code, parts = train_tiny(name="parts", resume=True)
    assert code == 0
    run_dir = tmp_path / "parts"
    assert exact(rows(run_dir)) == exact(rows(tmp_path / "whole"))
    assert [row["step"] for row in read_rows(run_dir / "timing-0.jsonl")] == list(range(1, 11))
    assert status(run_dir) == {"state": "completed", "step": 10, "reason": None}
    for name, value in whole.now.parameters.items():
        np.testing.assert_array_equal(parts.now.parameters[name], value)
    first, second = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole", "parts"))
    assert [segment["first_step"] for segment in second["segments"]] == [0, 3, 7]
    assert {**first, "segments": 0} == {**second, "segments": 0}


def test_imported_weights_become_a_whole_run_with_their_first_start(train_tiny, tmp_path: Path) -> None:
    """launchers.import_weights leaves a checkpoint and the recipe, but nothing of a start."""
    assert train_tiny(stop_after=3)[0] == 75
    path = tmp_path / "run" / "run.json"
    whole = json.loads(path.read_text())
    kept = {key: whole[key] for key in ("format", "recipe_id", "recipe", "parameter_count")}
    path.write_text(json.dumps(kept | {"imported": {"file": "x"}, "segments": []}))
    assert train_tiny(resume=True)[0] == 0
    started = json.loads(path.read_text())
    assert started.keys() == whole.keys() | {"imported"}
    assert (started["workers"], started["micro_batches"], len(started["segments"])) == (1, 1, 1)
    assert started["imported"] == {"file": "x"}


def test_after_a_crash_the_rows_past_the_checkpoint_are_set_aside(train_tiny, tmp_path: Path) -> None:
    def crash(step: int) -> None:
        if step == 8:
            raise RuntimeError("power cut")

    assert train_tiny("run.checkpoint_every=5", hook=crash)[0] == 1
    assert train_tiny(resume=True)[0] == 0
    run_dir = tmp_path / "run"
    assert [row["step"] for row in rows(run_dir)] == list(range(1, 11))
    assert [row["step"] for row in read_rows(run_dir / "metrics.discarded.jsonl")] == [6, 7]
    assert [row["step"] for row in read_rows(run_dir / "timing-0.jsonl")] == list(range(1, 11))
    assert status(run_dir)["state"] == "completed"
    # The recipe's own intervals hold after the resume as well.
    assert checkpoint.complete_steps(run_dir / "checkpoints") == [5, 10]


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(
    train_tiny, tmp_path: Path, shown: list[str]
) -> None:
    train_tiny("run.checkpoint_every=3", stop_after=6)
    model = tmp_path / "run" / "checkpoints" / "step-00000006" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    code, fake = train_tiny(resume=True)
    assert code == 0
    assert len(fake.calls) == 7
    reasons = [line for line in shown if line.startswith("skipped checkpoint ")]
    assert len(reasons) == 1
    assert f"{model}: its SHA-256 is not the manifest's" in reasons[0]
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, 11))


def test_a_run_without_a_checkpoint_starts_again(train_tiny, tmp_path: Path, shown: list[str]) -> None:
    def crash(step: int) -> None:
        if step == 3:
            raise RuntimeError("power cut")

    train_tiny(hook=crash)
    code, fake = train_tiny(resume=True)
    assert (code, len(fake.calls)) == (0, 10)
    assert [line for line in shown if "no checkpoint to resume from" in line]
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, 11))


def test_a_completed_run_has_nothing_left_to_do(train_tiny, tmp_path: Path, capsys) -> None:
    train_tiny()
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    code, fake = train_tiny(resume=True)
    assert (code, fake.calls) == (0, [])
    assert "all 10 steps are done already" in capsys.readouterr().err
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert status(tmp_path / "run")["state"] == "completed"


def test_tokens_are_counted_by_the_real_ones_across_a_resume(train_tiny, tmp_path: Path) -> None:
    gpt = ("steps=6", "data.global_batch=4", "model.width=4", "model.context=16")

    def sizes(name: str) -> list[tuple[int, int]]:
        return [(row["step"], row["tokens"]) for row in rows(tmp_path / name)]

    assert train_tiny(*gpt, recipe="verify-gpt", name="whole")[0] == 0
    assert train_tiny(*gpt, recipe="verify-gpt", name="parts", stop_after=2)[0] == 75
    assert train_tiny(name="parts", resume=True)[0] == 0
    assert sizes("parts") == sizes("whole")
    counts = np.diff([0, *(tokens for _, tokens in sizes("whole"))])
    assert (counts > 0).all()
    assert (counts <= 4 * 16).all()
    last = rows(tmp_path / "whole")[-1]
    assert last["tokens_per_s"] * last["step_time_s"] == pytest.approx(counts[-1])  # a window of one step


def test_only_the_main_process_writes_what_is_written_once(train_tiny, tmp_path: Path) -> None:
    code, _ = train_tiny(world=World(1, 1, 2, 2, (1,), "torchrun"))
    assert code == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"timing-1.jsonl"}


def test_in_fp16_an_overflow_is_counted_and_the_run_goes_on(train_tiny, tmp_path: Path) -> None:
    overflows = {2: (math.nan, math.inf), 7: (1.0, math.nan), 8: (math.nan, math.nan)}
    code, _ = train_tiny("precision=fp16", "run.log_every=4", hook=overflows.get)
    assert code == 0
    found = rows(tmp_path / "run")
    assert [(row["step"], row["loss_scale"], row["skipped_steps"]) for row in found] == [
        (1, 2.0**16, 0),
        (4, 2.0**15, 1),
        (8, 2.0**13, 3),
        (10, 2.0**13, 3),
    ]
    assert [row["grad_norm"] is None for row in found] == [False, False, True, False]


def test_in_fp16_an_overflow_at_the_smallest_scale_fails_the_run(train_tiny, tmp_path: Path, capsys) -> None:
    steps = "steps=30", "schedule.warmup_steps=2", "run.log_every=30"
    code, _ = train_tiny(
        "precision=fp16", *steps, hook=lambda step: (math.nan, math.nan) if step > 2 else None
    )
    assert code == 1
    assert (
        "step 19: the loss or its gradient is not finite" in capsys.readouterr().err
    )  # 16 halvings after step 2


def test_in_fp16_a_loss_that_is_not_finite_without_an_overflow_fails_the_run(train_tiny) -> None:
    code, _ = train_tiny("precision=fp16", hook=lambda step: (math.nan, 1.0) if step == 3 else None)
    assert code == 1


def test_other_precisions_log_no_loss_scale(train_tiny, tmp_path: Path) -> None:
    train_tiny()
    assert not {"loss_scale", "skipped_steps"} & set(rows(tmp_path / "run")[-1])
