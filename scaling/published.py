"""Throughput at several device counts as others published it, from published.csv beside this file."""

import csv
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

TABLE = Path(__file__).with_suffix(".csv")


@dataclass(frozen=True)
class Curve:
    """One published curve. `points` maps devices to throughput in `unit`, fewest devices first.

    `exchange` is `all-reduce`, `parameter servers` or `sharded`. Under weak scaling `batch_per_device` samples stay
    with each device, under strong scaling `global_batch` stays; None where the source does not say.
    """

    name: str
    model: str
    hardware: str
    strategy: str
    exchange: str
    scaling: str
    points: dict[int, float]
    unit: str
    batch_per_device: int | None
    global_batch: int | None
    precision: str
    source: str

    @property
    def label(self) -> str:
        """Name and model, which together tell it from all others."""
        return f"{self.name} {self.model}"


def read_published(path: Path = TABLE) -> list[Curve]:
    """All curves in the order of the table. Raises ValueError for a curve whose rows disagree on more than points."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    curves = []
    for (name, model), group in groupby(rows, key=lambda row: (row["curve"], row["model"])):
        members = list(group)
        told = [
            {key: value for key, value in row.items() if key not in ("devices", "throughput")}
            for row in members
        ]
        if any(facts != told[0] for facts in told):
            raise ValueError(
                f"{path}: rows of {name} {model} disagree; all but devices and throughput is one"
            )
        points = sorted((int(row["devices"]), float(row["throughput"])) for row in members)
        facts = told[0]
        curves.append(
            Curve(
                name=name,
                model=model,
                hardware=facts["hardware"],
                strategy=facts["strategy"],
                exchange=facts["exchange"],
                scaling=facts["scaling"],
                points=dict(points),
                unit=facts["unit"],
                batch_per_device=_number(facts["batch_per_device"]),
                global_batch=_number(facts["global_batch"]),
                precision=facts["precision"],
                source=facts["source"],
            )
        )
    return curves


def _number(cell: str) -> int | None:
    return int(cell) if cell else None
