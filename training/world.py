"""Who takes part in a run: the numbers that a launcher decides and a script needs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """One process's place in a run of `workers` replicas, driven by `num_processes` processes.

    `worker_ranks` are the workers that this process drives: one, except under tf-mirrored.
    `launcher` is what started it, and `on_one_node` is true where all the processes share a host.
    """

    rank: int
    local_rank: int
    num_processes: int
    workers: int
    worker_ranks: tuple[int, ...]
    launcher: str
    on_one_node: bool = True

    @property
    def is_main(self) -> bool:
        """The one process that writes metrics and checkpoints."""
        return self.rank == 0
