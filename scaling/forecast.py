"""How long the rest of a study will take: from the runs that are done, or, before there are any, from experience."""

from collections.abc import Iterable, Sequence
from statistics import median

from scaling.grid import Planned

EXPECTED_S = {"torch": 6.0, "tf": 13.0}
"""A short run from its command to its end, on 2 cores: most of it is the framework's import and, for TF, tracing."""


def as_clock(seconds: float) -> str:
    """45 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Forecast:
    """Of a run it takes the median of the most similar ones that are done."""

    def __init__(self, done: Iterable[tuple[Planned, float]] = ()) -> None:
        self._done: dict[tuple, list[float]] = {}
        for run, wall_s in done:
            self.add(run, wall_s)

    def add(self, run: Planned, wall_s: float) -> None:
        """A run is done."""
        for key in _keys(run):
            self._done.setdefault(key, []).append(wall_s)

    def left_s(self, missing: Sequence[Planned]) -> float:
        """Seconds that these will take."""
        return sum(self._one_s(run) for run in missing)

    def _one_s(self, run: Planned) -> float:
        for key in _keys(run):
            if times := self._done.get(key):
                return median(times)
        return EXPECTED_S[run.strategy.partition("-")[0]]


def _keys(run: Planned) -> list[tuple]:
    """From the most to the least similar."""
    framework = run.strategy.partition("-")[0]
    size = (run.workers, run.nodes)
    return [
        (run.recipe, run.strategy, size, run.scaling, run.exchange),
        (run.recipe, run.strategy, size),
        (run.recipe, framework),
        (framework,),
    ]
