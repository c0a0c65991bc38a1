"""A run that is resumed on another number of workers, in any order, is the run of one worker."""

import itertools
import json

import pytest

from tests.faults.runs import assert_near, case, command, recipe_of

pytestmark = pytest.mark.timeout(300)
SIZES = (1, 2, 4)
MICRO_BATCHES = 4
LEG_STEPS = 4
SET = ("--set", f"steps={LEG_STEPS * len(SIZES)}", "run.eval_every=-1")
ORDERS = [
    *(("torch-ddp", order) for order in itertools.permutations(SIZES)),
    ("torch-horovod", (4, 1, 2)),
    ("tf-mirrored", (1, 4, 2)),
    ("tf-horovod", (2, 4, 1)),
]


@pytest.mark.parametrize(
    ("strategy", "order"),
    [
        case(
            strategy,
            order,
            quick=(strategy, order) == ("torch-horovod", (4, 1, 2)),
            name=f"{strategy}-{'-'.join(map(str, order))}",
        )
        for strategy, order in ORDERS
    ],
)
def test_the_number_of_workers_may_change_at_every_resume(
    strategy: str, order: tuple[int, ...], start, undisturbed
) -> None:
    recipe = recipe_of(strategy)
    for number, workers in enumerate(order):
        accumulation = ("--accumulation", str(MICRO_BATCHES // workers))
        how = ("--resume",) if number else (*recipe, *SET, *accumulation)
        last = number == len(order) - 1
        stop = () if last else ("--stop-after", str(LEG_STEPS * (number + 1)))
        run = start("run", *command(strategy, *how, *stop, workers=workers))
        assert run.code(120) == (0 if last else 75), run.errors
    framework = strategy.partition("-")[0]
    whole = command(f"{framework}-single", *recipe, *SET, "--accumulation", str(MICRO_BATCHES))
    assert_near(run, undisturbed(*whole))
    segments = json.loads((run.run_dir / "run.json").read_text())["segments"]
    assert [(each["workers"], each["accumulation"]) for each in segments] == [
        (workers, MICRO_BATCHES // workers) for workers in order
    ]


def test_workers_that_cannot_share_the_micro_batches_are_refused(start, undisturbed) -> None:
    """A resume on three workers of a run with four micro-batches."""
    run = undisturbed(*command("torch-single", *recipe_of("torch-single"), *SET, "--accumulation", "4"))
    before = sorted(path.name for path in run.run_dir.iterdir())
    refused = start(str(run.run_dir), *command("torch-ddp", "--resume", workers=3))
    assert refused.code() == 2
    (line,) = refused.told
    assert line.startswith("trimaran: --resume on 3 workers: the run has 4 micro-batches a step")
    assert sorted(path.name for path in run.run_dir.iterdir()) == before
