"""Horovod's timeline, as Horovod 0.28.1 writes it."""

import json
from pathlib import Path

import pytest

from distributed.horovod_timeline import NAME, Timeline, read_timeline
from training.trace import COMMUNICATION, NEGOTIATION
from training.world import World

EPOCH_S = 1_795_000_000.0
HEAD = {
    "ph": "M",
    "name": "process_name",
    "pid": 0,
    "args": {"start_time_since_epoch_in_micros": int(EPOCH_S * 1e6)},
}


def tensor(pid: int, negotiated_ms: tuple[float, float], sent_ms: tuple[float, float]) -> list[dict]:
    """One tensor's rows: negotiation with the ranks as they come, and a sending with what happens inside of it."""
    first, last = sent_ms
    rows = [
        ("B", "NEGOTIATE_ALLREDUCE", negotiated_ms[0]),
        ("X", "1", negotiated_ms[0]),
        ("E", None, negotiated_ms[1]),
        ("B", "ALLREDUCE", first),
        ("B", "WAIT_FOR_DATA", first),
        ("E", None, first),
        ("B", "MPI_ALLREDUCE", first),
        ("E", None, last),
        ("E", None, last),
    ]
    names = {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": f"allreduce.{pid}"}}
    return [names, *({"ph": ph, "name": name, "pid": pid, "ts": 1000 * ms} for ph, name, ms in rows)]


def written(folder: Path) -> Path:
    rows = [HEAD, *tensor(1, (0, 4), (5, 8)), *tensor(2, (2, 4), (5, 8)), *tensor(1, (20, 21), (21, 25))]
    path = folder / NAME
    path.write_text(json.dumps(rows))
    return path


def test_tensors_that_travel_together_are_one_exchange(tmp_path: Path) -> None:
    events = read_timeline(written(tmp_path), since_s=EPOCH_S - 1)
    told = [(e.kind, round(e.begin_s, 6), round(e.end_s, 6)) for e in events]
    assert told == [
        (NEGOTIATION, 1.0, 1.004),
        (NEGOTIATION, 1.02, 1.021),
        (COMMUNICATION, 1.005, 1.008),
        (COMMUNICATION, 1.021, 1.025),
    ]
    assert {event.name for event in events} == {"Horovod ALLREDUCE", "Horovod NEGOTIATE_ALLREDUCE"}


def test_where_nothing_was_exchanged_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / NAME).touch()
    assert read_timeline(tmp_path / NAME, since_s=0.0) == []


class FakeHorovod:
    """Writes at once, on rank 0 alone."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def start_timeline(self, path: str) -> None:
        if self.rank == 0:
            assert not Path(path).exists()  # it would be continued
            written(Path(path).parent)


def test_a_rank_that_comes_later_leaves_rank_0_its_timeline(tmp_path: Path) -> None:
    written(tmp_path)  # by an earlier start
    timelines = [Timeline(FakeHorovod(rank), World(rank, rank, 2, 2, (rank,), "mpirun")) for rank in range(2)]
    for timeline in timelines:
        timeline.start(tmp_path)
    assert timelines[0].events(since_s=EPOCH_S) == timelines[1].events(since_s=EPOCH_S) != []


@pytest.mark.parametrize(
    ("rank", "local_rank", "known"), [(0, 0, True), (1, 1, True), (4, 0, False), (5, 1, False)]
)
def test_the_ranks_of_another_node_know_nothing(rank, local_rank, known, tmp_path: Path) -> None:
    Timeline(FakeHorovod(0), World(0, 0, 8, 8, (0,), "mpirun")).start(tmp_path)
    timeline = Timeline(FakeHorovod(rank), World(rank, local_rank, 8, 8, (rank,), "mpirun"))
    timeline.start(tmp_path)
    assert timeline.is_known is known
    assert bool(timeline.events(since_s=EPOCH_S)) is known
