"""The links between workers: latency and bandwidth, inside a node and between nodes.

A message of b bytes takes latency + b / bandwidth (the alpha-beta model; Hockney 1994). Both numbers are those that
a collective sees: what a link's data sheet says is not reached.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from scaling.search import closest

TYPICAL_LATENCY_S = 20e-6
"""Assumed where nothing measured tells: a message between processes, its software included."""
SLOWEST_BYTES_PER_S, FASTEST_BYTES_PER_S = 1e5, 1e12
FASTEST_S, SLOWEST_S = 1e-8, 1.0
"""The bounds of a fit; what lies outside is no link."""
LOG_SLOWEST, LOG_FASTEST = math.log10(SLOWEST_BYTES_PER_S), math.log10(FASTEST_BYTES_PER_S)
TIE_BREAK = 1e-5
"""What a factor of 10 counts beside a relative miss: it decides only between links that fit equally well."""
NUM_STARTS = 5
"""Packs that form as gradients come make several valleys."""
INDISTINGUISHABLE = 0.01
"""Steps that differ by less are taken as equal; repeated runs do not agree better."""


@dataclass(frozen=True)
class Link:
    """What one worker sees of a level: seconds before the first byte, and bytes a second in each direction."""

    latency_s: float
    bytes_per_s: float

    def faster(self, factor: float) -> "Link":
        """The same link with `factor` times the bandwidth."""
        return replace(self, bytes_per_s=self.bytes_per_s * factor)


IDEAL = Link(0.0, math.inf)


@dataclass(frozen=True)
class Topology:
    """Where the workers stand. Without `workers_per_node` all share one node, whatever their number.

    `between_nodes.bytes_per_s` is what a whole node sends, all its adapters together.
    """

    in_node: Link
    between_nodes: Link | None = None
    workers_per_node: int | None = None

    def nodes(self, workers: int) -> int:
        """Nodes that these workers fill, the last perhaps in part."""
        return 1 if self.workers_per_node is None else math.ceil(workers / self.workers_per_node)

    def slowest(self, workers: int) -> Link:
        """What a ring through all the workers runs at: the higher latency, the lower bandwidth.

        Raises ValueError where the workers fill several nodes and nothing is known of the link between them.
        """
        if self.nodes(workers) == 1:
            return self.in_node
        between = self.required_between_nodes()
        return Link(
            max(self.in_node.latency_s, between.latency_s),
            min(self.in_node.bytes_per_s, between.bytes_per_s),
        )

    def required_between_nodes(self) -> Link:
        """The link between nodes. Raises ValueError where it is unknown."""
        if self.between_nodes is None:
            raise ValueError("the link between nodes is unknown")
        return self.between_nodes

    def faster(self, level: str, factor: float) -> "Topology":
        """`factor` times the bandwidth at one level, `in_node` or `between_nodes`."""
        return self._changed(level, lambda link: link.faster(factor))

    def without_latency(self, level: str) -> "Topology":
        """No latency at one level."""
        return self._changed(level, lambda link: replace(link, latency_s=0.0))

    def _changed(self, level: str, change: Callable[[Link], Link]) -> "Topology":
        if level == "in_node":
            return replace(self, in_node=change(self.in_node))
        return replace(self, between_nodes=change(self.required_between_nodes()))


@dataclass(frozen=True)
class FittedLink:
    """A link found from step times. `residual` is the root mean square of predicted over measured, minus 1.

    `is_bound`: the measured steps cannot be told from those of an ideal link. Any faster link explains them as well;
    this one is the slowest that does, within `INDISTINGUISHABLE`.
    """

    link: Link
    residual: float
    is_bound: bool


StepTime = Callable[[Link, int], float]
"""Seconds of a step with this link on this many workers."""


def fit_link(step_s: StepTime, measured_s: Mapping[int, float], start: Link | None = None) -> FittedLink:
    """The link that makes `step_s` come closest to the measured steps, {workers: seconds}.

    Least squares of the relative differences, over the logarithms of bandwidth and latency. One worker count cannot
    tell the two apart, nor can overlap always: then latency is `TYPICAL_LATENCY_S`, or less where that would explain
    more than half of what is lost, and of links that fit equally the slowest is taken. `start`, a link not far from
    the solution, saves the search over all magnitudes. Raises ValueError without a measured step.
    """
    if not measured_s:
        raise ValueError("no measured steps to fit a link to")
    hidden_s = {n: step_s(IDEAL, n) * (1 + INDISTINGUISHABLE) for n in measured_s}
    is_bound = all(measured_s[n] <= hidden_s[n] for n in measured_s)
    latency_s = _assumed_latency_s(step_s, hidden_s if is_bound else measured_s)
    if is_bound:
        link = _slowest_within(step_s, hidden_s, latency_s)
    else:
        link = _closest(step_s, measured_s, latency_s, start)
    misses = [step_s(link, workers) / seconds - 1 for workers, seconds in measured_s.items()]
    return FittedLink(link, math.sqrt(sum(miss * miss for miss in misses) / len(misses)), is_bound)


def _assumed_latency_s(step_s: StepTime, measured_s: Mapping[int, float]) -> float:
    latency_s = TYPICAL_LATENCY_S

    def explains_too_much() -> bool:
        link = Link(latency_s, FASTEST_BYTES_PER_S)
        lost_s = {n: seconds - step_s(IDEAL, n) for n, seconds in measured_s.items()}
        return any(step_s(link, n) - step_s(IDEAL, n) > max(lost, 0) / 2 for n, lost in lost_s.items())

    while latency_s > 2 * FASTEST_S and explains_too_much():
        latency_s /= 2
    return latency_s


def _slowest_within(step_s: StepTime, limits_s: Mapping[int, float], latency_s: float) -> Link:
    """Bisection over the bandwidth, which makes every step shorter or leaves it."""
    slow, fast = LOG_SLOWEST, LOG_FASTEST
    while fast - slow > 1e-4:
        middle = Link(latency_s, 10 ** ((slow + fast) / 2))
        within = all(step_s(middle, n) <= limit for n, limit in limits_s.items())
        slow, fast = (slow, (slow + fast) / 2) if within else ((slow + fast) / 2, fast)
    return Link(latency_s, 10**fast)


def _closest(step_s: StepTime, measured_s: Mapping[int, float], latency_s: float, start: Link | None) -> Link:
    """Least squares: a look at all magnitudes, then a search from the best of them."""
    assumed = math.log10(latency_s)
    both = len(measured_s) > 1

    def misses(point: Sequence[float]) -> list[float]:
        latency = point[1] if both else assumed
        link = Link(10**latency, 10 ** point[0])
        found = [step_s(link, workers) / seconds - 1 for workers, seconds in measured_s.items()]
        return [*found, TIE_BREAK * (point[0] - LOG_SLOWEST), TIE_BREAK * (latency - assumed)]

    def cost(point: Sequence[float]) -> float:
        return sum(miss * miss for miss in misses(point))

    if start is not None:
        starts = [(math.log10(start.bytes_per_s), math.log10(start.latency_s))]
    else:
        latencies = [-8 + 0.25 * i for i in range(29)] if both else [assumed]
        grid = [(LOG_SLOWEST + 0.25 * i, latency) for i in range(29) for latency in latencies]
        starts = sorted(grid, key=cost)[:NUM_STARTS]
    num_free = 2 if both else 1
    low, high = (LOG_SLOWEST, math.log10(FASTEST_S)), (LOG_FASTEST, math.log10(SLOWEST_S))
    ends = [closest(misses, first[:num_free], low[:num_free], high[:num_free]) for first in starts]
    best = min(ends, key=cost)
    return Link(10 ** (best[1] if both else assumed), 10 ** best[0])
