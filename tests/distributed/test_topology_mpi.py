"""What mpirun and horovodrun leave in the environment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed import topology
from training.problems import UsageError
from training.world import World

TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
HOROVODRUN = {
    "HOROVOD_RANK": "3",
    "HOROVOD_SIZE": "4",
    "HOROVOD_LOCAL_RANK": "1",
    "HOROVOD_LOCAL_SIZE": "2",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
MPICH = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
MPI_FAMILIES = pytest.mark.parametrize(
    "family", [HOROVODRUN, OPEN_MPI, MPICH], ids=["horovodrun", "Open MPI", "MPICH"]
)
words = st.integers(-2, 6).map(str) | st.sampled_from(["", " ", "one", "1.0", "1e3", "٣", "0x1", "-"])


@pytest.fixture(autouse=True)
def gpus(monkeypatch) -> dict[str, int]:
    """How many the machine has."""
    count = {"gpus": 0}
    monkeypatch.setattr(topology, "visible_gpus", lambda environment: count["gpus"])
    return count


def one_line(caught: pytest.ExceptionInfo) -> str:
    assert str(caught.value).isprintable()
    return str(caught.value)


@MPI_FAMILIES
def test_mpirun_and_horovodrun_number_their_workers(family: dict[str, str]) -> None:
    launcher = "horovodrun" if family is HOROVODRUN else "mpirun"
    assert topology.of_horovod("torch-horovod", family) == World(3, 1, 4, 4, (3,), launcher, False)
    rank, size, *_ = family
    here = {**family, rank: "1", size: "2", "RANK": "7", "WORLD_SIZE": "8"}  # torchrun's mean nothing here
    assert topology.of_horovod("tf-horovod", here) == World(1, 1, 2, 2, (1,), launcher, True)
    # mpirun under horovodrun, or horovodrun under our launcher, which knows what it started.
    named = {**here, "TRIMARAN_LAUNCHER": "horovodrun"}
    assert topology.of_horovod("tf-horovod", named).launcher == "horovodrun"


@pytest.mark.parametrize(
    ("environment", "what"),
    [({}, "neither horovodrun nor mpirun"), (TORCHRUN, "torchrun")],
    ids=["none", "torchrun"],
)
def test_a_process_that_would_train_alone_is_told_how_to_start(
    environment: dict[str, str], what: str
) -> None:
    with pytest.raises(UsageError) as caught:
        topology.of_horovod("tf-horovod", environment)
    line = one_line(caught)
    assert line.startswith(f"tf-horovod: {what} started this process, so it would train alone; ")
    assert "mpirun -np N python -m distributed.tf_horovod" in line
    assert "python -m launchers.train tf-horovod --workers N" in line


@MPI_FAMILIES
def test_what_mpirun_should_have_set_is_named(family: dict[str, str]) -> None:
    for missing in family:
        with pytest.raises(UsageError) as caught:
            topology.of_horovod(
                "torch-horovod", {key: value for key, value in family.items() if key != missing}
            )
        launcher = "horovodrun" if family is HOROVODRUN else "mpirun"
        assert one_line(caught).startswith(f"torch-horovod: {missing} not set by {launcher}; ")
    rank, size, *_ = family
    places = {key: value for key, value in family.items() if key not in (rank, size)}
    with pytest.raises(
        UsageError, match="would train alone"
    ):  # a launcher of another kind may leave the rest
        topology.of_horovod("torch-horovod", places)


@MPI_FAMILIES
@pytest.mark.parametrize(
    "numbers",
    [
        ("4", "4", "1", "2"),
        ("-1", "4", "-1", "2"),
        ("0", "4", "1", "2"),
        ("3", "4", "2", "2"),
        ("3", "4", "1", "5"),
        ("0", "0", "0", "1"),
        ("0", "1", "0", "0"),
    ],
)
def test_impossible_numbers_of_mpirun_are_all_shown(family: dict[str, str], numbers: tuple[str, ...]) -> None:
    environment = dict(zip(family, numbers, strict=True))
    with pytest.raises(UsageError, match="contradict each other") as caught:
        topology.of_horovod("torch-horovod", environment)
    assert ", ".join(f"{name}={value}" for name, value in environment.items()) in one_line(caught)
    name = next(iter(family))
    with pytest.raises(UsageError, match=f"^{name}: found 'first' in the environment, expected an integer"):
        topology.of_horovod("torch-horovod", {**family, name: "first"})


def test_a_part_of_another_kind_beside_a_whole_one_means_nothing() -> None:
    slurm = {"PMI_RANK": "0", "PMI_SIZE": "1"}
    assert topology.of_horovod("torch-horovod", {**OPEN_MPI, **slurm}).rank == 3


def test_two_launchers_must_tell_the_same() -> None:
    both = {**OPEN_MPI, **HOROVODRUN}
    assert topology.of_horovod("torch-horovod", both).launcher == "horovodrun"
    for name in both:  # a mpirun inside another, or variables that somebody exported
        other = {**both, name: {"3": "2", "4": "5", "1": "0", "2": "3"}[both[name]]}
        with pytest.raises(UsageError, match="contradict each other") as caught:
            topology.of_horovod("torch-horovod", other)
        assert all(f"{key}={value}" in one_line(caught) for key, value in other.items())


@given(
    st.dictionaries(st.sampled_from([*HOROVODRUN, *OPEN_MPI, *MPICH]), words),
    st.sampled_from([{}, HOROVODRUN, OPEN_MPI, MPICH]),
)
def test_whatever_mpirun_left_gives_a_world_or_a_line(
    changes: dict[str, str], family: dict[str, str]
) -> None:
    environment = {**family, **changes}
    try:
        world = topology.of_horovod("torch-horovod", environment)
    except UsageError as error:
        assert str(error).isprintable()
        names = (*HOROVODRUN, *OPEN_MPI, *MPICH)
        assert any(name in str(error) for name in names) or "would train alone" in str(error)
    else:
        assert 0 <= world.rank < world.workers == world.num_processes
        assert world.local_rank <= world.rank
        assert world.worker_ranks == (world.rank,)
        assert topology.launched_rank(environment) == world.rank
    assert topology.launched_rank(environment) >= 0


def test_a_rank_is_known_before_anything_else_is() -> None:
    assert topology.launched_rank({}) == 0
    for family in (TORCHRUN, HOROVODRUN, OPEN_MPI, MPICH):
        assert topology.launched_rank(family) == 3
    assert topology.launched_rank({**MPICH, "OMPI_COMM_WORLD_RANK": "1"}) == 3  # the whole kind, as from_mpi
    assert topology.launched_rank({"PMI_RANK": "2"}) == 2
    assert topology.launched_rank({"PMI_RANK": "one"}) == 0


@MPI_FAMILIES
def test_more_workers_than_gpus_are_refused_on_this_node_alone(family: dict[str, str], gpus) -> None:
    gpus["gpus"] = 2
    assert topology.of_horovod("tf-horovod", family).workers == 4  # two nodes of two
    local_size = list(family)[3]
    with pytest.raises(UsageError, match=r"^--workers: found 3 on this node, but 2 GPU") as caught:
        topology.of_horovod("tf-horovod", {**family, local_size: "3"})
    assert "CUDA_VISIBLE_DEVICES=" in one_line(caught)
