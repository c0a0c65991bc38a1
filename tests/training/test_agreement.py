"""Ranks that mean different runs do not train together."""

from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training import agreement
from training.agreement import (
    agree,
    as_numbers,
    check_agreement,
    check_devices_differ,
    uuid_numbers,
    uuid_text,
)
from training.problems import UsageError
from training.world import World

FACTS = {"recipe id": "0123456789abcdef", "parameters": "fedcba9876543210", "code version": "aa"}


def table(*others: dict[str, str]) -> np.ndarray:
    return np.stack([as_numbers(FACTS), *(as_numbers({**FACTS, **other}) for other in others)])


def test_ranks_that_agree_may_train() -> None:
    check_agreement(FACTS, table({}, {}, {}))
    check_agreement(FACTS, as_numbers(FACTS)[None])


@pytest.mark.parametrize("fact", FACTS)
def test_who_differs_and_in_what_is_told_alike_on_every_rank(fact: str) -> None:
    with pytest.raises(UsageError, match=rf"^{fact}: rank\(s\) 2, 3 have another than rank 0") as caught:
        check_agreement(FACTS, table({}, {fact: "x"}, {fact: "y"}))
    assert str(caught.value).isprintable()


@given(st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=20))
def test_any_difference_is_found(values: list[str]) -> None:
    facts = {"recipe id": values[0]}
    rows = np.stack([as_numbers({"recipe id": value}) for value in values])
    if len(set(values)) == 1:
        check_agreement(facts, rows)
    else:
        with pytest.raises(UsageError):
            check_agreement(facts, rows)


def test_the_code_version_changes_with_any_line_of_code(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "loop.py").write_text("x = 1\n")
    monkeypatch.setattr(agreement, "CHECKOUT", tmp_path)
    digests = [agreement.code_digest.__wrapped__()]
    for name, text in (("loop.py", "x = 2\n"), ("more.py", ""), ("notes.txt", "not code")):
        (tmp_path / "training" / name).write_text(text)
        digests.append(agreement.code_digest.__wrapped__())
    assert len(set(digests)) == 3
    assert digests[-1] == digests[-2]


@pytest.mark.parametrize(
    ("devices", "who"),
    [("abc", None), ("abad", "0, 2"), ("xaaa", "1, 2, 3"), ("a", None), ("   ", None), (" a a", "1, 3")],
)
def test_two_ranks_on_one_gpu_are_named(devices: str, who: str | None) -> None:
    uuids = [None if device == " " else f"GPU-{device}" for device in devices]
    if who is None:
        check_devices_differ(uuids)
        return
    with pytest.raises(UsageError, match=f"^ranks {who} use one and the same GPU"):
        check_devices_differ(uuids)


@given(st.uuids())
def test_a_uuid_survives_its_journey_as_numbers(uuid: UUID) -> None:
    """PyTorch writes it without NVML's prefix."""
    assert uuid_text(uuid_numbers(str(uuid))) == uuid_text(uuid_numbers(f"GPU-{uuid}")) == f"GPU-{uuid}"
    assert uuid_text(uuid_numbers(None)) is None


def test_processes_without_a_gpu_are_not_taken_for_one(open_tiny) -> None:
    """Each gathers what rank 1 of two sent as well."""
    runs = [open_tiny(world=World(rank, rank, 2, 2, (rank,), "torchrun")) for rank in (0, 1)]
    sent: list[np.ndarray] = []
    gpu = "GPU-6a1f5b8c-1e0d-9f57-8a6e-000000000001"
    for uuid, error in ((None, None), (gpu, "ranks 0, 1 use one and the same GPU")):
        sent.clear()
        for run in runs:
            assert agree(run, uuid, lambda numbers: sent.append(numbers) or numbers[None]) == [uuid]
        both = np.stack(sent)
        if error is None:
            assert agree(runs[0], uuid, lambda numbers, both=both: both) == [None, None]
        else:
            with pytest.raises(UsageError, match=error):
                agree(runs[0], uuid, lambda numbers, both=both: both)


def test_ranks_that_disagree_leave_together(open_tiny) -> None:
    """A rank that left at once would cut the others off in mid-answer; who is gone already changes nothing."""
    run = open_tiny(world=World(0, 0, 2, 2, (0,), "torchrun"))
    gathered: list[np.ndarray] = []

    def gather(numbers: np.ndarray) -> np.ndarray:
        gathered.append(numbers)
        if len(gathered) > 1:
            raise RuntimeError("connection closed by peer")
        return np.stack([numbers, numbers + 1])

    with pytest.raises(UsageError, match=r"rank\(s\) 1 have another than rank 0"):
        agree(run, None, gather)
    assert len(gathered) == 2
