"""Before the first step: do all the processes of a run mean the same run?

A node with another checkout, a rank with other options or an older checkpoint would train along without a word, and
every loss after it would be of no run at all.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from uuid import UUID

import numpy as np

from training.problems import UsageError
from training.run import Run

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGES = ("recipes", "models", "data", "telemetry", "training", "distributed")
"""Whose code decides what a run computes."""


def agree(run: Run, device_uuid: str | None, gather: Callable[[np.ndarray], np.ndarray]) -> list[str | None]:
    """Compare this process with all others, by one collective. Raises UsageError, the same on every rank and together.

    gather(numbers): int64 [k] of every process as [processes, k]. device_uuid: this process's GPU, where it has one
    and its framework tells which. Returns those of all processes, as NVML writes them.
    """
    ours = facts(run)
    table = gather(np.concatenate([as_numbers(ours), uuid_numbers(device_uuid)]))
    uuids = [uuid_text(row) for row in table[:, -2:]]
    try:
        check_agreement(ours, table[:, :-2])
        check_devices_differ(uuids)
    except UsageError:
        with suppress(
            Exception
        ):  # whoever is through first may leave, and so cut off those that have their table too
            gather(np.zeros(1, np.int64))
        raise
    return uuids


def facts(run: Run) -> dict[str, str]:
    """What must be equal everywhere, by its name in the message."""
    assert run.start is not None
    return {
        "number of workers": f"{run.workers} in {run.world.num_processes} processes",
        "recipe id": run.recipe.recipe_id,
        "accumulation": str(run.accumulation),
        "data": run.train_source.fingerprint,
        "step to start from": str(run.start.step),
        "parameters": run.start.model_digest,
        "code version": code_digest(),
    }


def as_numbers(facts: dict[str, str]) -> np.ndarray:
    """int64 [facts]: what any framework's collectives can carry, the first 8 bytes of each fact's SHA-256."""
    hashes = [hashlib.sha256(fact.encode()).digest()[:8] for fact in facts.values()]
    return np.frombuffer(b"".join(hashes), dtype="<i8").astype(np.int64)


def check_agreement(ours: dict[str, str], table: np.ndarray) -> None:
    """table: int64 [processes, facts], a row a rank. Raises UsageError, the same on every rank, naming who differs."""
    for fact, column in zip(ours, table.T, strict=True):
        odd = np.flatnonzero(column != column[0])
        if len(odd):
            ranks = ", ".join(map(str, odd[:8])) + ("…" if len(odd) > 8 else "")
            raise UsageError(
                f"{fact}: rank(s) {ranks} have another than rank 0 ({ours[fact]} here); start all processes from one "
                "checkout with one command, and on one --run-dir"
            )


def uuid_numbers(text: str | None) -> np.ndarray:
    """int64 [2]: a GPU's UUID, with or without NVML's prefix; zeros for none."""
    content = bytes(16) if text is None else UUID(text[-36:]).bytes
    return np.frombuffer(content, dtype="<i8").astype(np.int64)


def uuid_text(numbers: np.ndarray) -> str | None:
    """The reverse."""
    content = numbers.astype("<i8").tobytes()
    return f"GPU-{UUID(bytes=content)}" if any(content) else None


def check_devices_differ(uuids: list[str | None]) -> None:
    """uuids: each rank's GPU, None where it is unknown. Raises UsageError, the same on every rank."""
    for uuid in filter(None, uuids):
        sharing = [str(rank) for rank, other in enumerate(uuids) if other == uuid]
        if len(sharing) > 1:
            raise UsageError(
                f"ranks {', '.join(sharing[:8])} use one and the same GPU; give each its own: unset "
                "CUDA_VISIBLE_DEVICES, or make it different for each (srun --gpus-per-task=1), and start one process "
                "a GPU"
            )


@cache
def code_digest() -> str:
    """16 hex digits over the Python files of PACKAGES in this checkout, committed or not."""
    total = hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (CHECKOUT / package).glob("*.py")):
        total.update(f"{path.relative_to(CHECKOUT)}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()[:16]
