"""Who takes part in a run: the numbers that a launcher decides and a script needs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """One process's place in a run of `workers` replicas, driven by `num_processes` processes.

    worker_ranks: the workers that this process drives; one, except under tf-mirrored.
    launcher: what started it.
    on_one_node: whether all the processes share a host.
    has_own_gpus: whether the launcher shows this process its own GPUs alone, so that its first is number 0.
    main_address, main_port: where rank 0 waits for the others; None where the launcher has told torch itself.
    addresses: host:port of each process, for TensorFlow.
    peer: another host of the run, where there are several and the launcher tells.
    """

    rank: int
    local_rank: int
    num_processes: int
    workers: int
    worker_ranks: tuple[int, ...]
    launcher: str
    on_one_node: bool = True
    has_own_gpus: bool = False
    main_address: str | None = None
    main_port: int | None = None
    addresses: tuple[str, ...] = ()
    peer: str | None = None

    @property
    def is_main(self) -> bool:
        """The one process that writes metrics and checkpoints."""
        return self.rank == 0

    @property
    def gpu_index(self) -> int:
        """Of the GPUs that this process sees, the one of its (first) worker."""
        return 0 if self.has_own_gpus else self.local_rank
