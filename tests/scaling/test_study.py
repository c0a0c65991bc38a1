"""The small study: which runs it makes, what it reads out of them, what it writes."""

import json
from pathlib import Path

import pytest

from launchers import commands
from scaling import study
from scaling.results import Result, read_result, read_status
from scaling.table import HEADER, print_table, rows, write_csv, write_markdown, write_picture
from training.problems import UsageError


def make_run(
    folder: Path, *, family: str = "resnet", loss: float = 1.0, step_times_s: tuple = (9.0, 0.5, 0.5)
) -> Path:
    """A completed run of three steps as the scripts leave it, with a slow first (compiling) window and two ranks."""
    folder.mkdir(parents=True)
    saved = {
        "recipe_id": "0123456789abcdef",
        "recipe": {"model": {"family": family}},
        "segments": [{"oversubscribed": False}],
    }
    (folder / "run.json").write_text(json.dumps(saved))
    (folder / "status.json").write_text(json.dumps({"state": "completed", "step": 3, "reason": None}))
    training = [
        {"step": step, "loss": loss / step, "samples": 24 * step, "tokens": 960 * step} for step in (1, 2, 3)
    ]
    evaluation = {"step": 3, "eval_loss": 0.25, "eval_accuracy": 0.75}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*training, evaluation]))
    for rank, factor in enumerate((1.0, 2.0)):
        windows = [{"step": i + 1, "steps": 1, "step_time_s": s * factor} for i, s in enumerate(step_times_s)]
        (folder / f"timing-{rank}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in windows))
    return folder


def read(folder: Path, strategy: str = "torch-single", **kind) -> Result:
    return read_result("tiny", strategy, 1, make_run(folder / strategy, **kind))


def test_the_slowest_rank_and_not_the_compiling_window_makes_the_rate(tmp_path: Path) -> None:
    images, text = read(tmp_path / "a"), read(tmp_path / "b", family="gpt")
    assert (images.rate, images.unit) == (24 / 1.0, "samples")  # rank 1 takes twice 0.5 s
    assert (text.rate, text.unit) == (960 / 1.0, "tokens")


def test_the_worst_difference_is_relative_and_over_all_steps(tmp_path: Path) -> None:
    base, other = read(tmp_path), read(tmp_path, "tf-single", loss=1.5)
    assert other.worst_difference(base) == pytest.approx(0.5)
    assert base.worst_difference(base) == 0.0


def test_the_table_compares_with_the_base_of_the_same_framework(tmp_path: Path, capsys) -> None:
    results = [
        read(tmp_path),
        read(tmp_path, "torch-ddp", step_times_s=(9.0, 0.25, 0.25)),
        read(tmp_path, "tf-mirrored", loss=1.1),
    ]
    cells = {row[1]: dict(zip(HEADER, row, strict=True)) for row in rows(results)}
    assert cells["torch-ddp"]["speed-up"] == "2.00"
    assert cells["tf-mirrored"]["speed-up"] == "n/a", "tf-single did not run"
    assert cells["tf-mirrored"]["worst difference"] == "1.0e-01"
    print_table(results)
    assert "tf-mirrored" in capsys.readouterr().out
    assert "| tiny | torch-ddp | 1 |" in write_markdown(tmp_path, results).read_text()
    assert write_csv(tmp_path, results).read_text().splitlines()[0] == ",".join(HEADER)
    assert write_picture(tmp_path, results).read_bytes().startswith(b"\x89PNG")


def test_a_run_is_kept_only_if_it_is_complete_and_of_the_same_recipe(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    folder = make_run(tmp_path / "run")
    assert read_status(folder) == ("completed", "0123456789abcdef")
    (folder / "run.json").write_text("{")
    assert read_status(folder) is None


def test_single_strategies_run_once_and_torch_single_first() -> None:
    runs = list(study._runs(study.StudyOptions(recipes="verify-gpt")))
    assert runs[0] == ("verify-gpt", "torch-single", 1)
    assert [workers for _, strategy, workers in runs if strategy == "tf-mirrored"] == [2]
    assert sum(strategy.endswith("-single") for _, strategy, _ in runs) == 2


def test_what_cannot_start_here_is_left_out_and_told(monkeypatch, capsys) -> None:
    def check(strategy: str, launcher: str) -> None:
        if strategy.endswith("-horovod"):
            raise UsageError("horovod: not installed")

    monkeypatch.setattr(commands, "check_launcher", check)
    strategies = {strategy for _, strategy, _ in study._runs(study.StudyOptions(recipes="verify-gpt"))}
    assert strategies == {"torch-single", "torch-ddp", "tf-single", "tf-mirrored"}
    told = capsys.readouterr().err.splitlines()
    assert told == [f"trimaran: {name}-horovod NOT RUN: horovod: not installed" for name in ("torch", "tf")]


@pytest.mark.parametrize(
    ("options", "key"), [({"strategies": "ddp"}, "--strategies"), ({"workers": "3"}, "--workers")]
)
def test_a_mistake_is_told_before_anything_runs(options: dict, key: str) -> None:
    with pytest.raises(UsageError, match=rf"^{key}: found '\w+', expected"):
        list(study._runs(study.StudyOptions(**options)))
