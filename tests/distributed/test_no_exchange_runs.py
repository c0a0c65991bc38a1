"""--no-exchange: the same ranks at work, each by itself. The runs are those of conftest.py."""

import json

import pytest

from telemetry.run_log import read_rows

PAIRS = ("torch-ddp", "torch-horovod", "tf-mirrored", "tf-horovod")


def marks(strategy: str) -> list:
    runs = pytest.mark.runs(f"{strategy} alone", strategy, "torch-ddp alone")
    return [runs, pytest.mark.horovod] if strategy.endswith("-horovod") else [runs]


@pytest.mark.parametrize("strategy", [pytest.param(name, marks=marks(name), id=name) for name in PAIRS])
def test_without_exchange_each_worker_trains_alone_and_nothing_is_saved(strategy: str, done) -> None:
    alone, together, ddp = done
    assert alone.code == 0, alone.errors
    assert json.loads((alone.run_dir / "run.json").read_text())["exchange"] is False
    assert json.loads((together.run_dir / "run.json").read_text())["exchange"] is True
    assert not (alone.run_dir / "checkpoints").exists()
    rows, others, ddps = (read_rows(run.run_dir / "metrics.jsonl") for run in (alone, together, ddp))
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]  # and no evaluation
    assert rows[-1]["loss"] != pytest.approx(others[5]["loss"], rel=1e-6)
    for row, reference in zip(rows, ddps, strict=True):
        assert row["loss"] == pytest.approx(reference["loss"], rel=1e-9)
        assert row["grad_norm"] == pytest.approx(reference["grad_norm"], rel=1e-7)
    ranks = {path.name for path in alone.run_dir.glob("timing-*.jsonl")}
    assert ranks == {path.name for path in together.run_dir.glob("timing-*.jsonl")}


@pytest.mark.runs("torch-single alone")
def test_one_worker_has_nobody_to_exchange_with(done) -> None:
    (run,) = done
    assert run.code == 0, run.errors
    assert not (run.run_dir / "checkpoints").exists()
