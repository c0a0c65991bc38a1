"""The runs of a study, grouped: a case is what repetitions repeat, with the base that it is measured against."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from scaling.records import Record
from scaling.statistics import generator, sampled_medians


@dataclass(frozen=True, eq=False)
class Case:
    """One recipe, way of scaling, strategy and size.

    runs: the repetitions with gradient exchange, alone: those without, base: those of the same framework's -single
    strategy on one device, with the worker's own batch for weak scaling and the global batch for strong scaling.
    All that were planned are here, the failed ones too; `usable` picks those with a steady step time.
    A base is a case as well (scaling "base"), without a base of its own.
    """

    recipe: str
    scaling: str
    strategy: str
    workers: int
    nodes: int
    runs: tuple[Record, ...]
    alone: tuple[Record, ...] = ()
    base: tuple[Record, ...] = ()

    @property
    def name(self) -> str:
        """For a person."""
        nodes = f" on {self.nodes} nodes" if self.nodes > 1 else ""
        batch = f", batch {self.global_batch or 'unknown'}" if self.scaling == "base" else ""
        return f"{self.recipe} {self.scaling} {self.strategy} {self.workers}{nodes}{batch}"

    @property
    def curve(self) -> tuple[str, str, str]:
        """What the cases of one scaling curve share."""
        return self.recipe, self.scaling, self.strategy

    @property
    def global_batch(self) -> int | None:
        """Samples a step; None where no run has a run.json."""
        return next((run.global_batch for run in (*self.runs, *self.alone) if run.global_batch), None)

    @property
    def oversubscribed(self) -> bool:
        """More workers than cores."""
        return any(run.oversubscribed for run in (*self.runs, *self.alone))

    @property
    def why_not_compared(self) -> str | None:
        """Why this case has no speed-up, in one line; None where it has one."""
        if self.oversubscribed:
            return "oversubscribed: more workers than cores, which is no scaling"
        if not usable(self.runs) or self.global_batch is None:
            return "no run reached a steady step time"
        if not self.base:
            batch = _base_batch(self.scaling, self.global_batch, self.workers)
            return f"no base: found no {self.runs[0].framework}-single run with a batch of {batch:g}"
        return None if usable(self.base) else "no base: none of its runs reached a steady step time"

    @property
    def sampled_speed_up(self) -> np.ndarray | None:
        """Throughput over the base's, sampled; None for the reason in `why_not_compared`."""
        if self.why_not_compared:
            return None
        assert self.global_batch is not None
        assert self.base[0].global_batch is not None
        share = self.global_batch / self.base[0].global_batch
        return share * sampled_step(usable(self.base))[0] / sampled_step(usable(self.runs))[0]


def usable(records: Iterable[Record]) -> tuple[Record, ...]:
    """Completed and steady."""
    return tuple(record for record in records if record.is_usable)


@lru_cache(maxsize=256)  # many cases ask for one base
def sampled_step(kept: tuple[Record, ...]) -> np.ndarray:
    """The slowest rank's step time and the longest waiting for data, sampled (scaling/statistics.py).

    kept: usable runs, at least one. Returns [2, 1 + resamples]. The draws depend on the runs alone.
    """
    windows = [
        np.stack([run.steady_step_time_s.max(axis=0), run.steady_data_time_s.max(axis=0)], axis=1)
        for run in kept
    ]
    return sampled_medians(windows, generator(*(run.id for run in kept)))


def in_order(records: Iterable[Record]) -> list[Record]:
    """By what they are, whatever the order in which a study ran them; bases come first."""
    return sorted(
        records,
        key=lambda run: (
            run.recipe,
            run.scaling,
            run.strategy,
            run.workers,
            run.nodes,
            run.repetition,
            run.id,
        ),
    )


def group(records: Iterable[Record]) -> tuple[Case, ...]:
    """All cases, in the order of their first records."""
    grouped: dict[tuple, list[Record]] = {}
    for record in records:
        batch = record.global_batch if record.scaling == "base" else None
        key = (record.recipe, record.scaling, record.strategy, record.workers, record.nodes, batch)
        grouped.setdefault(key, []).append(record)
    bases: dict[tuple, tuple[Record, ...]] = {
        (runs[0].recipe, runs[0].framework, runs[0].global_batch): tuple(runs)
        for runs in grouped.values()
        if runs[0].scaling == "base"
    }
    return tuple(_case(found, bases) for found in grouped.values())


def _case(found: list[Record], bases: dict[tuple, tuple[Record, ...]]) -> Case:
    first = found[0]
    case = Case(
        first.recipe,
        first.scaling,
        first.strategy,
        first.workers,
        first.nodes,
        runs=tuple(run for run in found if run.exchange),
        alone=tuple(run for run in found if not run.exchange),
    )
    if case.scaling == "base" or case.global_batch is None:
        return case
    batch = _base_batch(case.scaling, case.global_batch, case.workers)
    return replace(case, base=bases.get((case.recipe, first.framework, batch), ()))


def _base_batch(scaling: str, global_batch: int, workers: int) -> float:
    """What one device trains with: the worker's own batch (weak) or all of it (strong)."""
    return global_batch / workers if scaling == "weak" else global_batch
