"""From a measured case to other counts: what is fitted, what is given, and what the interval covers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scaling import prediction
from scaling.links import Link
from scaling.measured import Case, measured
from scaling.overlap import MIB, Packing, buckets
from scaling.prediction import (
    GivenLinks,
    build_model,
    check_counts,
    gradients_of,
    packing_of,
    predict,
    what_ifs,
)
from tests.scaling.measured_cases import COMPUTE_S, LINK, case, step_s, write_study
from training.problems import UsageError

NOTHING = GivenLinks()


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for these checks, and a fifth of the time."""
    monkeypatch.setattr(prediction, "DRAWS", 40)


def read(folder: Path, **changes) -> Case:
    return measured(write_study(folder, case(**changes))).cases[0]


def noisy(folder: Path, seed: int, relative: float = 0.005) -> Case:
    """The case with 1 % or so of noise, five repetitions."""
    rng = np.random.default_rng(seed)

    def around(seconds: float) -> list[float]:
        return (seconds * np.exp(relative * rng.standard_normal(5))).tolist()

    steps = {str(n): around(step_s(LINK, n)) for n in (2, 3, 4)}
    return read(folder, compute_s=around(COMPUTE_S), steps=steps, jitter_s=0.0)


def with_switches(case: Case, **switches: object) -> Case:
    """The case of a recipe with other keys of [performance]."""
    return replace(
        case, recipe=replace(case.recipe, performance=replace(case.recipe.performance, **switches))
    )


def test_steps_without_noise_give_the_link_back_and_predict_exactly(tmp_path: Path) -> None:
    model = build_model(read(tmp_path), NOTHING)
    assert model.topology.in_node.bytes_per_s == pytest.approx(LINK.bytes_per_s, rel=0.03)
    assert model.topology.in_node.latency_s == pytest.approx(LINK.latency_s, rel=0.1)
    assert model.residual == pytest.approx(0, abs=1e-5)
    for workers in (1, 8, 32):
        assert model.step(workers).step_s == pytest.approx(step_s(LINK, workers), rel=0.01)
    assert model.efficiency(1) == 1
    assert model.efficiency(8) == pytest.approx(COMPUTE_S / step_s(LINK, 8), rel=0.01)


def test_the_interval_covers_the_truth(tmp_path: Path) -> None:
    covered = 0
    for seed in range(6):
        model = build_model(noisy(tmp_path, seed), NOTHING)
        (found,) = predict(model, NOTHING, [8])
        low, high = found.step_interval_s
        assert low <= found.step.step_s <= high
        assert found.efficiency_interval[0] <= found.efficiency <= found.efficiency_interval[1]
        covered += low <= step_s(LINK, 8) <= high
    assert covered >= 5


def test_the_interval_grows_with_the_noise_and_with_what_the_model_misses(tmp_path: Path) -> None:
    def width(measured_case: Case) -> float:
        low, high = predict(build_model(measured_case, NOTHING), NOTHING, [8])[0].step_interval_s
        return high - low

    given = GivenLinks(in_node=Link(0.0, 1e15))
    spread = read(tmp_path, compute_s=[0.05, 0.06, 0.07], steps={}, jitter_s=0.0)
    low, high = predict(build_model(spread, given), given, [8])[0].step_interval_s
    assert (low, high) == pytest.approx((0.05, 0.07))  # repeated computing alone
    calm, wild = (noisy(tmp_path, 1, relative) for relative in (0.001, 0.02))
    assert width(wild) > 3 * width(calm)
    steps = {n: (step_s(LINK, n) * (1.1 if n == 3 else 1),) * 3 for n in (2, 3, 4)}  # no link does this
    assert width(replace(read(tmp_path), steps_s=steps)) > 0.05 * step_s(LINK, 8)


def test_strong_scaling_shares_the_work(tmp_path: Path) -> None:
    steps = {str(n): [step_s(LINK, n, 2 / n)] for n in (2, 4)}
    strong = build_model(read(tmp_path, scaling="strong", compute_workers=2, steps=steps), NOTHING)
    assert strong.step(4).alone_s == pytest.approx(COMPUTE_S / 2)
    assert strong.step(8).step_s == pytest.approx(step_s(LINK, 8, 0.25), rel=0.02)
    assert strong.efficiency(8) == pytest.approx(2 * COMPUTE_S / (8 * strong.step(8).step_s))
    assert check_counts(strong, [8, 24, 25, 64]) == [8, 24]  # of 24 samples


def test_the_measured_base_is_what_efficiency_is_against(tmp_path: Path) -> None:
    model = build_model(read(tmp_path, steps={"1": [0.05, 0.05], "2": [0.07]}), NOTHING)
    assert model.efficiency(4) == pytest.approx(0.05 / model.step(4).step_s)


def test_both_levels_are_fitted_from_the_counts_that_use_them(tmp_path: Path) -> None:
    steps = {"2": [step_s(LINK, 2)] * 2, "4": [0.5] * 2}
    model = build_model(read(tmp_path, steps=steps, workers_per_node=2), NOTHING)
    assert sorted(model.fitted) == ["between_nodes", "in_node"]
    assert model.step(4).step_s == pytest.approx(0.5, rel=1e-3)
    assert model.step(2).step_s == pytest.approx(step_s(LINK, 2), rel=1e-3)


def test_what_is_given_wins_and_its_misses_are_told(tmp_path: Path) -> None:
    links = {"in_node": {"latency_s": 1e-6, "bytes_per_s": 1e12}}
    assert build_model(read(tmp_path, links=links), NOTHING).topology.in_node == Link(1e-6, 1e12)
    slow = Link(1e-5, 2e7)
    given = build_model(read(tmp_path, links=links), GivenLinks(in_node=slow, workers_per_node=16))
    assert given.topology.in_node == slow
    assert given.topology.nodes(17) == 2
    assert not given.fitted
    assert given.residual is not None and given.residual > 0.05
    assert build_model(read(tmp_path, links=links, steps={}), NOTHING).residual is None


def test_a_link_that_nothing_tells_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the link in a node was not measured.*--in-node-gb-s"):
        build_model(read(tmp_path, steps={"1": [0.1]}), NOTHING)
    model = build_model(read(tmp_path, workers_per_node=4), NOTHING)
    assert check_counts(model, [4]) == [4]
    with pytest.raises(UsageError, match=r"the link between nodes was not measured.*--between-nodes-gb-s"):
        check_counts(model, [4, 8])


def test_each_strategy_packs_as_its_script_does(tmp_path: Path) -> None:
    ddp = read(tmp_path)
    assert packing_of(ddp) == Packing("buckets", 25 * MIB)
    assert packing_of(replace(ddp, strategy="torch-horovod")) == Packing("fusion", 128 * MIB, 1e-3)
    assert packing_of(replace(ddp, strategy="tf-horovod")) == Packing("fusion", 128 * MIB, 1e-3)
    assert packing_of(replace(ddp, strategy="tf-mirrored")).kind == "after"
    assert packing_of(replace(ddp, strategy="tf-horovod", accumulation=2)).kind == "after"
    told = with_switches(ddp, bucket_mib=5)
    assert packing_of(told) == Packing("buckets", 5 * MIB, first_bytes=5 * MIB)
    assert packing_of(replace(told, strategy="tf-mirrored")) == packing_of(told)
    assert packing_of(replace(told, strategy="tf-mirrored", accumulation=2)).kind == "after"
    for strategy in ("torch-horovod", "tf-horovod"):
        assert packing_of(replace(told, strategy=strategy)) == Packing("fusion", 5 * MIB, 1e-3)
    compiled = with_switches(ddp, xla=True, bucket_mib=5)
    for strategy in ("tf-mirrored", "tf-horovod"):
        assert packing_of(replace(compiled, strategy=strategy)).kind == "after"
    assert packing_of(compiled) == packing_of(told)
    doubled = replace(ddp, recipe=replace(ddp.recipe, precision="float64"))
    assert sum(g.num_bytes for g in gradients_of(doubled)) == 2 * sum(g.num_bytes for g in gradients_of(ddp))


def test_compressed_gradients_are_half_as_many_bytes_in_the_same_buckets(tmp_path: Path) -> None:
    ddp = read(tmp_path)
    whole, half = gradients_of(ddp), gradients_of(with_switches(ddp, gradient_compression="bf16"))
    assert [g.num_bytes for g in half] == [g.num_bytes / 2 for g in whole]
    for switches in ({}, {"bucket_mib": 1}):
        packs, halves = (
            list(buckets(gradients, packing_of(with_switches(ddp, gradient_compression=kind, **switches))))
            for kind, gradients in (("none", whole), ("fp16", half))
        )
        assert len(packs) == 2
        assert [p.num_bytes for p in halves] == [p.num_bytes / 2 for p in packs]  # filled before they shrink
    told = packing_of(with_switches(ddp, gradient_compression="fp16", bucket_mib=5))
    assert told == Packing("buckets", 2.5 * MIB, first_bytes=2.5 * MIB)
    mirrored = replace(with_switches(ddp, gradient_compression="bf16", bucket_mib=1), strategy="tf-mirrored")
    assert packing_of(mirrored).cap_bytes == 1 * MIB  # filled with what has shrunk
    given = GivenLinks(in_node=Link(0.0, 1e8))
    costs = [
        build_model(with_switches(replace(ddp, steps_s={}), gradient_compression=kind), given).step(4)
        for kind in ("none", "bf16")
    ]
    assert costs[1].communication_s == pytest.approx(costs[0].communication_s / 2)
    changes = [
        c.change for c in what_ifs(build_model(with_switches(ddp, gradient_compression="bf16"), given), 4)
    ]
    assert "buckets of 6.25 MiB" in changes


def test_jitter_makes_many_workers_wait(tmp_path: Path) -> None:
    given = GivenLinks(in_node=Link(0.0, 1e15))
    spread = build_model(read(tmp_path, compute_s=[0.059, 0.06, 0.061], steps={}), given)
    assert spread.work.jitter_s == pytest.approx(0.001)
    told = build_model(read(tmp_path, jitter_s=0.002, steps={}), given)
    assert told.step(64).step_s == pytest.approx(COMPUTE_S + 0.002 * 2.337, rel=1e-3)


def test_changes_go_the_right_way(tmp_path: Path) -> None:
    model = build_model(read(tmp_path), NOTHING)
    changes = {change.change: change for change in what_ifs(model, 16)}
    assert list(changes) == [
        "as it is", "buckets of 6.25 MiB", "buckets of 100 MiB", "link in node x2", "link in node x10", "batch x2"
    ]  # fmt: skip
    now = changes["as it is"]
    assert now.step_s == model.step(16).step_s
    assert changes["link in node x10"].step_s < changes["link in node x2"].step_s < now.step_s
    assert changes["batch x2"].efficiency > now.efficiency
    assert now.step_s < changes["batch x2"].step_s < 2 * now.step_s
    assert now.samples_per_s == pytest.approx(24 * 16 / now.step_s)
    after = build_model(replace(model.case, strategy="tf-mirrored"), NOTHING)
    assert not any("MiB" in change.change for change in what_ifs(after, 16))


def test_the_link_that_limits_is_the_one_made_faster(tmp_path: Path) -> None:
    slow, fast = Link(1e-6, 1e8), Link(1e-6, 1e12)
    for given, level in (
        (GivenLinks(fast, slow, 4), "between nodes"),
        (GivenLinks(slow, fast, 4), "in node"),
    ):
        model = build_model(read(tmp_path), given)
        assert f"link {level} x2" in [change.change for change in what_ifs(model, 16)]
