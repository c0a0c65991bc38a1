"""What an all-reduce costs: ring, double binary tree and hierarchical, in the alpha-beta model.

n workers add up b bytes each; a link has latency a and bandwidth B in each direction. Adding the numbers is left
out: memory is faster than the links. Thakur, Rabenseifner and Gropp 2005 ("Optimization of collective communication
operations in MPICH") give the model.
"""

import math

from scaling.links import Link, Topology

ALGORITHMS = ("ring", "tree", "hierarchical")


def ring_s(num_bytes: float, workers: int, link: Link) -> float:
    """Seconds of a ring: 2 (n - 1) a + 2 (n - 1) / n b / B.

    A reduce-scatter and an all-gather of n - 1 messages of b / n bytes each. No algorithm moves fewer bytes (Patarasuk
    and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations").
    """
    rounds = 2 * (workers - 1)
    return rounds * (link.latency_s + num_bytes / workers / link.bytes_per_s)


def tree_s(num_bytes: float, workers: int, link: Link) -> float:
    """Seconds of a double binary tree: 2 ceil(log2 n) a + 2 b / B.

    Two trees, each of them for half of the bytes; a worker is a leaf in one and inside in the other, so both directions
    of its link stay full (Sanders, Speck and Traff 2009; NCCL since 2.4). Filling the pipeline is left out.
    """
    if workers == 1:
        return 0.0
    return 2 * math.ceil(math.log2(workers)) * link.latency_s + 2 * num_bytes / link.bytes_per_s


def hierarchical_s(num_bytes: float, workers: int, topology: Topology) -> float:
    """Seconds of reduce-scatter in the node, all-reduce between nodes, all-gather in the node.

    Each of a node's g workers all-reduces its g-th of the bytes with its peers on the other nodes, all g at once, so
    that they share the node's bandwidth. On one node it is the ring.
    """
    nodes = topology.nodes(workers)
    if nodes == 1:
        return ring_s(num_bytes, workers, topology.in_node)
    in_node = topology.workers_per_node or workers
    between = topology.required_between_nodes()
    across = min(ring_s(num_bytes, nodes, between), tree_s(num_bytes, nodes, between))
    return ring_s(num_bytes, in_node, topology.in_node) + across


def all_reduce_s(num_bytes: float, workers: int, topology: Topology) -> float:
    """Seconds of the fastest algorithm for this size and count, which is what NCCL and MPI choose by."""
    return fastest(num_bytes, workers, topology)[1]


def fastest(num_bytes: float, workers: int, topology: Topology) -> tuple[str, float]:
    """Name and seconds of the fastest algorithm; of equals the first of `ALGORITHMS`."""
    if workers == 1:
        return "none", 0.0
    link = topology.slowest(workers)
    costs = [("ring", ring_s(num_bytes, workers, link)), ("tree", tree_s(num_bytes, workers, link))]
    if topology.nodes(workers) > 1:
        costs.append(("hierarchical", hierarchical_s(num_bytes, workers, topology)))
    return min(costs, key=lambda cost: cost[1])
