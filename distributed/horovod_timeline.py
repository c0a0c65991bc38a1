"""Horovod's timeline of a few steps: started and stopped while it trains, and read.

Horovod writes it on rank 0 alone. Each tensor has NEGOTIATE_ALLREDUCE, from the first rank that offers it until all
have, and ALLREDUCE, in which it travels. Collectives happen on all ranks at once, so on rank 0's node, where the
clocks are one, these are every rank's times, short of a message's.
"""

import json
from pathlib import Path
from typing import Any

from training.intervals import Span, union
from training.trace import COMMUNICATION, NEGOTIATION, Event
from training.world import World

NAME = "horovod-timeline.json"


class Timeline:
    """hvd: Horovod, initialised with HOROVOD_TIMELINE=DYNAMIC in the environment."""

    def __init__(self, hvd: Any, world: World) -> None:
        self._hvd, self._world = hvd, world
        self._path = Path()

    @property
    def is_known(self) -> bool:
        """Whether rank 0's times are this rank's too: on its node the ranks count up with the local ranks."""
        return self._world.rank == self._world.local_rank

    def start(self, folder: Path) -> None:
        """Record from now on."""
        self._path = folder / NAME
        if self._world.is_main:  # which has not begun to write; the others may come later
            self._path.unlink(missing_ok=True)  # of an earlier start
        self._hvd.start_timeline(str(self._path.absolute()))

    def stop(self) -> None:
        """Close the file."""
        self._hvd.stop_timeline()

    def events(self, since_s: float) -> list[Event]:
        """Communication and negotiation, on a clock that was 0 at `since_s` (seconds since 1970); none if unknown.

        Raises FileNotFoundError where rank 0 has written nothing.
        """
        return read_timeline(self._path, since_s) if self.is_known else []


def read_timeline(path: Path, since_s: float) -> list[Event]:
    """When any tensor was in each of its outermost states. Raises FileNotFoundError or ValueError."""
    began_s = 0.0
    spans: dict[str, list[Span]] = {}
    open_ones: dict[int, list[tuple[str, float]]] = {}
    for row in json.loads(path.read_bytes() or b"[]"):  # empty where nothing was exchanged
        arguments = row.get("args", {})
        if "start_time_since_epoch_in_micros" in arguments:
            began_s = arguments["start_time_since_epoch_in_micros"] * 1e-6 - since_s
        if row["ph"] == "B":
            open_ones.setdefault(row["pid"], []).append((row["name"], row["ts"] * 1e-6))
        elif row["ph"] == "E" and open_ones.get(row["pid"]):
            name, begin_s = open_ones[row["pid"]].pop()
            if not open_ones[row["pid"]]:
                spans.setdefault(name, []).append((began_s + begin_s, began_s + row["ts"] * 1e-6))
    return [  # tensors that are fused travel together
        Event(
            NEGOTIATION if name.startswith("NEGOTIATE_") else COMMUNICATION,
            f"Horovod {name}",
            "Horovod",
            *span,
        )
        for name, each in spans.items()
        for span in union(each)
    ]
