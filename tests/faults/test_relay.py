"""One run that goes from strategy to strategy, and from one to four workers, as if it had never moved."""

import json
from pathlib import Path

import pytest

from tests.faults.runs import assert_near, command

pytestmark = [pytest.mark.timeout(300), pytest.mark.horovod]
LEGS = (("torch-ddp", 2), ("tf-mirrored", 1), ("torch-horovod", 4), ("tf-single", 1))
"""Who trains in turn, with how many workers."""
LEG_STEPS = 30
MICRO_BATCHES = 4


@pytest.mark.parametrize("family", [pytest.param("resnet", marks=pytest.mark.faults_all), "gpt"])
def test_a_run_that_changes_strategy_and_workers_three_times_is_one_run(family: str, start) -> None:
    recipe = ("--recipe", str(Path(__file__).with_name(f"gentle-{family}.toml")))
    alone = start("alone", *command("torch-single", *recipe, "--accumulation", str(MICRO_BATCHES)))
    for number, (strategy, workers) in enumerate(LEGS, start=1):
        how = ("--resume",) if number > 1 else (*recipe, "--accumulation", str(MICRO_BATCHES // workers))
        stop = number * LEG_STEPS
        last = stop == LEG_STEPS * len(LEGS)
        words = command(strategy, *how, *(() if last else ("--stop-after", str(stop))), workers=workers)
        relay = start("relay", *words)
        assert relay.code(120) == (0 if last else 75), relay.errors
        assert relay.status()["step"] == stop
    assert alone.code(120) == 0, alone.errors
    assert_near(relay, alone)
    assert [row["step"] for row in relay.rows()] == list(range(1, LEG_STEPS * len(LEGS) + 1))
    segments = json.loads((relay.run_dir / "run.json").read_text())["segments"]
    assert [(each["strategy"], each["workers"], each["first_step"]) for each in segments] == [
        (strategy, workers, LEG_STEPS * number) for number, (strategy, workers) in enumerate(LEGS)
    ]
    assert all(each["workers"] * each["accumulation"] == MICRO_BATCHES for each in segments)
