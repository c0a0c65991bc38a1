"""What differs between runs of one chart is said, and what belongs to a strategy or a size is not."""

import copy
from typing import Any

import numpy as np
import pytest

from scaling.differences import differences
from scaling.records import Record
from tests.scaling.generated import RUN_JSON


def record(
    run_id: str, changes: dict[str, Any] | None = None, *, strategy: str = "torch-ddp", **more: Any
) -> Record:
    """A record whose run.json differs at these dotted keys; `segment.` leads into its one segment."""
    fingerprint = copy.deepcopy(RUN_JSON)
    for key, value in (changes or {}).items():
        *path, name = key.split(".")
        place = fingerprint
        for part in path:
            place = place["segments"][0] if part == "segment" else place[part]
        place[name] = value
    what = {"workers": 2, "nodes": 1, "scaling": "weak", "repetition": 0, "exchange": True} | more
    return Record(run_id, "tiny", strategy=strategy, state="completed", fingerprint=fingerprint, **what)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("recipe.precision", "bf16", "recipe.precision: bf16 in b, float32 in the others"),
        (
            "recipe.optimizer.learning_rate",
            0.1,
            "recipe.optimizer.learning_rate: 0.1 in b, 0.05 in the others",
        ),
        ("digests.data", "other", "digests.data: other in b, d in the others"),
        ("segment.versions.torch", None, "versions.torch: unknown in b, 2.13.0 in the others"),
        ("segment.hardware.cpu", "Xeon", "hardware.cpu: Xeon in b, EPYC in the others"),
        (
            "segment.hardware.gpus",
            [{"name": "H100"}, {"name": "H100"}],
            'hardware.gpus: ["H100"] in b, [] in the others',
        ),
        ("segment.settings.threads", 4, "settings.threads / workers of a process: 4 in b, 1 in the others"),
        ("segment.settings.tf32", True, "settings.tf32: true in b, false in the others"),
        ("segment.settings.cudnn_benchmark", True, None),
        ("segment.eager", True, "eager (torch): true in b, false in the others"),
        ("segment.code_digest", "e", "code_digest: e in b, c in the others"),
    ],
)
def test_one_that_differs_is_named(key: str, value: object, said: str | None) -> None:
    found = differences([record("a"), record("b", {key: value}), record("c")], "strong")
    assert found == ([] if said is None else [said])


@pytest.mark.parametrize("key", ["recipe.run.log_every", "segment.command", "segment.settings.device_uuid"])
def test_what_any_two_runs_differ_in_is_not_said(key: str) -> None:
    assert differences([record("a", {key: 3}), record("b", {key: 4})], "strong") == []


def test_a_process_of_several_workers_has_the_threads_of_all_of_them() -> None:
    one, two = np.ones((1, 9)), np.ones((2, 9))
    mirrored = record("m", {"segment.settings.threads": 2}, strategy="tf-mirrored", step_time_s=one)
    assert differences([mirrored, record("a", step_time_s=two)], "weak") == []
    assert differences([mirrored, record("b", {"segment.settings.threads": 2}, step_time_s=two)], "weak") == [
        "settings.threads / workers of a process: 1 in m, 2 in b"
    ]


def test_alike_runs_differ_in_nothing() -> None:
    assert differences([record("a"), record("b"), record("c", workers=4)], "strong") == []
    assert differences([], "weak") == []


def test_weak_scaling_shares_the_workers_batch_and_strong_scaling_the_global_one() -> None:
    runs = [record("a"), record("b", {"recipe.data.global_batch": 192}, workers=4)]
    assert differences(runs, "weak") == []
    assert differences(runs, "strong") == ["recipe.data.global_batch: 192 in b, 96 in a"]
    assert differences([record("a"), record("b", workers=4)], "weak") == [
        "recipe.data.global_batch / workers: 24 in b, 48 in a"
    ]


def test_settings_of_a_framework_are_compared_within_it() -> None:
    compiled = {"segment.settings.compiled": True}
    plain = {"segment.settings.compiled": False}
    torch_runs = [record("a", plain), record("b", plain)]
    assert differences([*torch_runs, record("c", compiled, strategy="tf-horovod")], "weak") == []
    assert differences([*torch_runs, record("c", compiled)], "weak") == [
        "settings.compiled (torch): true in c, false in the others"
    ]


def test_clocks_differ_beyond_their_wandering() -> None:
    def clocked(*clocks: float | None) -> list[Record]:
        """Of two devices the slower one counts; a run may have no telemetry at all."""
        found = [record("none")]
        for n, clock in enumerate(clocks):
            devices = [{"sm_clock_mhz": {"mean": mean, "peak": 2000}} for mean in (clock, clock and 1990)]
            found.append(record(f"r{n}", summary={"devices": devices}))
        return found

    assert differences(clocked(1980, 1965, None), "weak") == []
    assert differences(clocked(1980, 1700, None), "weak") == ["sm_clock_mhz: from 1700 in r1 to 1980 in r0"]


def test_many_runs_are_counted_and_failed_ones_without_run_json_left_out() -> None:
    old = [record(f"o{n}", {"segment.versions.torch": "2.6.0"}) for n in range(6)]
    new = [record(f"n{n}") for n in range(7)]
    empty = Record("x", "tiny", "torch-ddp", 2, 1, "weak", 0, True, "failed", "run.json: not found")
    assert differences([*old, *new, empty], "weak") == [
        "versions.torch: 2.6.0 in o0, o1, o2, o3 and 2 more, 2.13.0 in the others"
    ]
