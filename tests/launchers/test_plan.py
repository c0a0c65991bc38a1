import json
from math import lcm
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launchers.plan import CONTROL_SEEDS, accumulations, make_plan
from recipes.recipe import Recipe, load_recipe
from training.options import Options, parse
from training.problems import UsageError

counts = st.sets(st.integers(1, 8), min_size=1, max_size=4).map(lambda chosen: sorted(chosen | {1}))
BOTH = ("one-step", "trajectory")


def with_batch(name: str, batch: int) -> Recipe:
    return load_recipe(name, (f"data.global_batch={batch}",))


@settings(deadline=None)
@given(counts, st.integers(1, 400))
def test_with_batchnorm_all_have_the_same_micro_batches_or_the_batch_is_refused(
    workers: list[int], batch: int
) -> None:
    try:
        found = accumulations(with_batch("verify-resnet", batch), workers)
    except UsageError as error:
        assert str(error).startswith(f"data.global_batch: found {batch}, expected a multiple of ")
        assert batch % lcm(*workers)
        return
    assert list(found) == workers
    (total,) = {count * accumulation for count, accumulation in found.items()}
    assert batch % total == 0
    # Accumulation is in play for all where the batch allows it.
    if batch % (2 * lcm(*workers)) == 0:
        assert min(found.values()) > 1


@settings(deadline=None)
@given(counts)
def test_without_batchnorm_both_paths_of_a_strategy_are_taken(workers: list[int]) -> None:
    found = accumulations(load_recipe("verify-gpt"), workers)
    assert found == {count: 2 if count % 2 else 1 for count in workers}


@pytest.mark.parametrize("name", ["verify-resnet", "verify-gpt"])
def test_the_recipes_of_verify_suit_all_worker_counts_of_the_promise(name: str) -> None:
    recipe = load_recipe(name)
    for count, accumulation in accumulations(recipe, [1, 2, 3, 4]).items():
        assert recipe.data.global_batch % (count * accumulation) == 0


def test_a_plan_runs_the_reference_its_controls_and_each_strategy_with_each_count() -> None:
    recipe = load_recipe("verify-resnet")
    strategies = ["torch-single", "torch-ddp", "tf-single", "tf-mirrored"]
    plan = make_plan("verify-resnet", recipe, strategies, [1, 2], ("steps=5",), BOTH)
    assert [job.name for job in plan.jobs] == [
        *("torch-single-1", "torch-ddp-1", "torch-ddp-2", "tf-single-1", "tf-mirrored-1", "tf-mirrored-2"),
        "tf-mirrored-2-nodes-2",
    ]
    assert plan.jobs[0] is plan.reference
    assert {job.workers * job.accumulation for job in (*plan.jobs, *plan.controls)} == {4}
    assert [job.perturb_seed for job in plan.controls] == list(CONTROL_SEEDS)
    assert len({job.name for job in (*plan.jobs, *plan.controls)}) == 10
    assert make_plan("verify-resnet", recipe, strategies, [1], (), ("one-step",)).controls == []


def test_switches_are_on_in_every_run_but_the_reference_and_its_controls(tmp_path: Path) -> None:
    recipe, switch = load_recipe("verify-gpt"), "performance.xla=true"
    strategies = ["torch-single", "tf-single", "tf-mirrored"]
    plan = make_plan("verify-gpt", recipe, strategies, [1, 2], (), BOTH, switches=(switch,))
    assert plan.reference.name == "torch-single-1-plain" and plan.reference not in plan.jobs
    assert "torch-single-1" in [job.name for job in plan.jobs]
    for job in (plan.reference, *plan.controls, *plan.jobs):
        found = {any(switch in word for word in command) for command, _ in plan.commands(job, tmp_path)}
        assert found == {job in plan.jobs}, job.name
    assert plan.switched.performance.xla and not plan.recipe.performance.xla


def test_only_runs_that_compress_their_gradients_have_a_wider_bound_for_them() -> None:
    recipe, switch = load_recipe("verify-gpt"), ("performance.gradient_compression=bf16",)
    plan = make_plan("verify-gpt", recipe, ["torch-single", "torch-ddp"], [1, 2], (), BOTH, switches=switch)
    wider = {
        job.name: plan.bounds_of(job).gradient for job in plan.jobs if plan.bounds_of(job) != plan.bounds
    }
    assert wider == {"torch-ddp-2": pytest.approx(2 * ((1 + 2**-8) ** 2 - 1), rel=1e-6)}
    assert plan.bounds_of(plan.reference) == plan.bounds


def test_statistics_are_compared_at_equal_workers_and_accumulation() -> None:
    strategies = ["torch-single", "torch-ddp", "tf-mirrored"]
    plan = make_plan("verify-resnet", load_recipe("verify-resnet"), strategies, [1, 2], (), BOTH)
    peers = {job.name: getattr(plan.statistics_peer(job), "name", None) for job in plan.jobs}
    assert peers == {
        "torch-single-1": None,
        "torch-ddp-1": "torch-single-1",
        "torch-ddp-2": None,
        "tf-mirrored-1": "torch-single-1",
        "tf-mirrored-2": "torch-ddp-2",
        "tf-mirrored-2-nodes-2": "torch-ddp-2",
    }
    plan = make_plan("verify-gpt", load_recipe("verify-gpt"), strategies, [2], (), BOTH)
    assert {plan.statistics_peer(job) for job in plan.jobs} == {None}


def options_of(plan, job) -> Options:
    command, _ = plan.commands(job, Path("/w"))[0]
    start = next(i for i, word in enumerate(command) if word.startswith("distributed.")) + 1
    return parse(Options, "x", command[start:])


def test_the_commands_of_both_modes_together() -> None:
    recipe = load_recipe("verify-gpt")
    plan = make_plan("verify-gpt", recipe, ["torch-single", "tf-mirrored"], [2], ("steps=9",), BOTH)
    reference, other, _ = (options_of(plan, job) for job in plan.jobs)
    # The reference keeps every state: they are what each step of the others starts from.
    assert reference.overrides == ("steps=9", "run.checkpoint_every=1", "run.keep_checkpoints=1000000")
    assert other.overrides == ("steps=9",)
    assert reference.replay_from == other.replay_from == Path("/w/torch-single-1")
    assert (other.workers, other.accumulation, other.stop_after) == (2, 1, None)
    assert other.run_dir == Path("/w/tf-mirrored-2")
    control = options_of(plan, plan.controls[0])
    assert (control.perturb_gradients, control.replay_from) == (CONTROL_SEEDS[0], None)


def test_the_commands_of_one_mode_alone() -> None:
    recipe = load_recipe("verify-gpt")
    plan = make_plan("verify-gpt", recipe, ["torch-single", "tf-single"], [1], (), ("one-step",))
    reference, other = (options_of(plan, job) for job in plan.jobs)
    assert (reference.stop_after, other.stop_after) == (None, 1)
    plan = make_plan("verify-gpt", recipe, ["torch-single", "tf-single"], [1], (), ("trajectory",))
    assert [options_of(plan, job).replay_from for job in plan.jobs] == [None, None]
    assert [options_of(plan, job).stop_after for job in plan.jobs] == [None, None]


def test_several_nodes_are_several_commands_on_this_machine() -> None:
    recipe = load_recipe("verify-gpt")
    strategies = ["torch-ddp", "tf-mirrored", "torch-horovod"]
    plan = make_plan("verify-gpt", recipe, strategies, [1, 2, 4], (), BOTH, nodes=2)
    assert [(job.workers, job.nodes) for job in plan.jobs] == 3 * [(1, 1), (2, 2), (4, 2)]
    started = {job.name: plan.commands(job, Path("/w")) for job in plan.jobs}
    assert {name: len(commands) for name, commands in started.items() if len(commands) > 1} == {
        "torch-ddp-2-nodes-2": 2,
        "torch-ddp-2-nodes-4": 2,
        "tf-mirrored-2-nodes-2": 2,
        "tf-mirrored-2-nodes-4": 4,  # TensorFlow has one worker a process there
    }
    for rank, (command, _) in enumerate(started["torch-ddp-2-nodes-4"]):
        assert {"--nnodes=2", "--nproc-per-node=2", f"--node-rank={rank}", "--master-addr=127.0.0.1"} <= set(
            command
        )
    configs = [json.loads(environment["TF_CONFIG"]) for _, environment in started["tf-mirrored-2-nodes-4"]]
    assert [config["task"]["index"] for config in configs] == [0, 1, 2, 3]
    assert len({json.dumps(config["cluster"]) for config in configs}) == 1
    ((command, _),) = started["torch-horovod-horovodrun-2-nodes-4"]
    assert command[command.index("-H") + 1] == "localhost:2,127.0.0.1:2"
    with pytest.raises(UsageError, match=r"^--workers: found 3, expected multiples of --nodes 2, or 1"):
        make_plan("verify-gpt", recipe, strategies, [3], (), BOTH, nodes=2)


@pytest.mark.parametrize(("control", "calm"), [(None, True), (9e-11, True), (2e-10, False)])
def test_a_recipe_whose_control_strays_is_too_wild(control: float | None, calm: bool) -> None:
    plan = make_plan("verify-gpt", load_recipe("verify-gpt"), ["torch-single"], [1], (), BOTH)
    plan.control = control
    assert (plan.is_calm, plan.passes) == (calm, calm)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16", "fp16"])
def test_the_control_of_other_precisions_is_the_same_steps_in_float64(precision: str) -> None:
    recipe = load_recipe("verify-gpt", (f"precision={precision}",))
    plan = make_plan("verify-gpt", recipe, ["torch-single"], [1], (f"precision={precision}",), ("one-step",))
    (control,) = plan.controls
    assert control.name == "torch-single-1-float64"
    assert options_of(plan, control).overrides[-1] == "precision=float64"
    plan.rounding = {"loss": 1e-3, "gradient": 0.01}
    assert plan.bounds.loss == pytest.approx(1e-2)
    assert plan.bounds.gradient == pytest.approx(0.1)
