"""What srun and TF_CONFIG leave in the environment; the values are those of Slurm 22.05 on two nodes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed import devices, topology
from distributed.slurm_step import FIRST_PORT, LAST_PORT
from training.problems import UsageError

SRUN = {
    "SLURM_JOB_ID": "2",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "node[1-2]",
}
ONE_NODE = {
    **SRUN,
    "SLURM_PROCID": "1",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NODEID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_STEP_NODELIST": "node1",
}
STARTS = {
    "torch-ddp": lambda environment: topology.of_torch("torch-ddp", environment),
    "torch-horovod": lambda environment: topology.of_horovod("torch-horovod", environment),
    "tf-mirrored": lambda environment: topology.of_mirrored(None, environment),
}
each_strategy = pytest.mark.parametrize("strategy", STARTS)
ours = {name: SRUN[name] for name in SRUN if name != "SLURM_JOB_ID"}


@pytest.fixture(autouse=True)
def gpus(monkeypatch) -> dict[str, int]:
    """How many a process sees."""
    count = {"gpus": 0}
    for module in (topology, devices):
        monkeypatch.setattr(module, "visible_gpus", lambda environment: count["gpus"])
    return count


def tf_config(index: int = 1, kind: str = "worker", **cluster: list[str]) -> dict[str, str]:
    task = {"type": kind, "index": index}
    return {"TF_CONFIG": json.dumps({"cluster": cluster or {"worker": ["a:1", "b:2"]}, "task": task})}


@each_strategy
def test_srun_numbers_its_tasks(strategy: str) -> None:
    world = STARTS[strategy](SRUN)
    assert (world.rank, world.local_rank, world.num_processes, world.workers) == (3, 1, 4, 4)
    assert (world.worker_ranks, world.launcher, world.on_one_node) == ((3,), "srun", False)
    assert world.peer == "node1"
    assert STARTS[strategy](ONE_NODE).on_one_node
    assert STARTS[strategy](ONE_NODE).peer is None
    assert STARTS[strategy]({**SRUN, "TRIMARAN_LAUNCHER": "mine"}).launcher == "mine"
    assert topology.launched_rank(SRUN) == 3


@each_strategy
def test_a_batch_script_without_srun_is_not_rank_0_of_all(strategy: str) -> None:
    batch = {
        "SLURM_JOB_ID": "2",
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": "4",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
    }
    if strategy == "tf-mirrored":
        assert STARTS[strategy](batch).workers == 1
        return
    with pytest.raises(UsageError, match=r"^torch-(ddp: RANK,.*put srun before|horovod: neither)"):
        STARTS[strategy](batch)


@each_strategy
@pytest.mark.parametrize(
    "change",
    [
        {"SLURM_PROCID": "4"},
        {"SLURM_STEP_NUM_TASKS": "5"},
        {"SLURM_STEP_TASKS_PER_NODE": "4"},
        {"SLURM_STEP_NODELIST": "node[1-3]"},
        {"SLURM_NODEID": "2"},
        {"SLURM_LOCALID": "2"},
    ],
)
def test_variables_of_srun_that_contradict_each_other_are_all_shown(strategy: str, change: dict) -> None:
    with pytest.raises(UsageError, match="contradict each other") as caught:
        STARTS[strategy](SRUN | change)
    for name in set(ours) - {"SLURM_STEP_ID"}:
        assert f"{name}={(SRUN | change)[name]}" in str(caught.value)


@each_strategy
def test_what_srun_should_have_set_is_named(strategy: str) -> None:
    for missing in set(ours) - {"SLURM_STEP_ID"}:
        with pytest.raises(UsageError, match=f"^{missing}: not set, but SLURM_STEP_ID=0 is"):
            STARTS[strategy]({name: value for name, value in SRUN.items() if name != missing})


def test_torch_meets_at_the_first_node_and_on_loopback_if_it_is_the_only_one() -> None:
    world, alone = STARTS["torch-ddp"](SRUN), STARTS["torch-ddp"](ONE_NODE)
    assert (world.main_address, alone.main_address) == ("node1", "127.0.0.1")
    assert FIRST_PORT <= world.main_port < LAST_PORT
    told = STARTS["torch-ddp"]({**SRUN, "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "2222"})
    assert (told.main_address, told.main_port) == ("10.0.0.7", 2222)
    in_turn = {**SRUN, "SLURM_PROCID": "2", "SLURM_NODEID": "0"}  # --distribution=cyclic
    with pytest.raises(UsageError, match="--distribution=block"):
        STARTS["torch-ddp"](in_turn)
    assert STARTS["torch-ddp"]({**in_turn, "MASTER_ADDR": "a"}).rank == 2


def test_torchrun_inside_a_step_is_what_counts() -> None:
    step = {**SRUN, "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"}
    step["SLURM_STEP_TASKS_PER_NODE"] = "1(x2)"
    torchrun = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
    meeting = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
    world = STARTS["torch-ddp"]({**step, **torchrun, **meeting, "TORCHELASTIC_RUN_ID": "x"})
    assert (world.rank, world.workers, world.main_address) == (5, 8, None)
    with pytest.raises(UsageError, match=r"RANK=5.*SLURM_PROCID=1.*contradict"):
        STARTS["torch-ddp"]({**step, **torchrun, **meeting})


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK"])
def test_a_rank_exported_in_the_batch_script_is_found(name: str) -> None:
    """`export RANK=$SLURM_PROCID` outside of srun gives every task rank 0."""
    with pytest.raises(UsageError, match=f"{name}=0, SLURM_PROCID=3.*unset {name}"):
        STARTS["torch-ddp"]({**SRUN, name: "0"})


def test_mpirun_inside_a_step_is_what_counts() -> None:
    """Open MPI starts its daemons by srun, and their variables reach the ranks."""
    keys = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
    mpirun = {f"OMPI_COMM_WORLD_{key}": value for key, value in zip(keys, "5842", strict=True)}
    mpirun["OMPI_COMM_WORLD_LOCAL_RANK"] = "1"
    world = STARTS["torch-horovod"](SRUN | mpirun)
    assert (world.rank, world.workers, world.launcher) == (5, 8, "mpirun")
    with pytest.raises(UsageError, match="MASTER_ADDR, MASTER_PORT not set"):
        topology.of_torch("torch-ddp", mpirun)
    meeting = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
    assert topology.of_torch("torch-ddp", mpirun | meeting).rank == 5


def test_pmix_must_count_as_srun_does() -> None:
    pmi = {"PMI_RANK": "3", "PMI_SIZE": "4"}  # --mpi=pmi2 leaves these two alone
    assert STARTS["torch-horovod"]({**SRUN, **pmi, "PMIX_RANK": "3"}).rank == 3
    with pytest.raises(UsageError, match=r"SLURM_PROCID=3.*PMIX_RANK=0 contradict"):
        STARTS["torch-horovod"]({**SRUN, "PMIX_RANK": "0"})


def test_a_single_strategy_under_srun_is_refused_for_several_tasks_alone() -> None:
    with pytest.raises(UsageError, match=r"^SLURM_STEP_NUM_TASKS: found 4 \(srun\), but tf-single is one"):
        topology.alone("tf-single", SRUN)
    assert topology.alone("tf-single", {**SRUN, "SLURM_STEP_ID": "4294967291"}).workers == 1
    assert topology.alone("tf-single", {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"}).workers == 1


def test_tensorflow_is_told_of_every_task_once() -> None:
    world = STARTS["tf-mirrored"](SRUN)
    config = json.loads(topology.tf_config(world.addresses, world.rank))
    hosts, ports = zip(*(each.split(":") for each in config["cluster"]["worker"]), strict=True)
    assert hosts == ("node1", "node1", "node2", "node2")
    assert len(set(ports)) == 4
    assert config["task"] == {"type": "worker", "index": 3}
    assert all(each.startswith("127.0.0.1:") for each in STARTS["tf-mirrored"](ONE_NODE).addresses)


def test_tf_config_is_read_as_tensorflow_defines_it() -> None:
    world = topology.of_mirrored(None, tf_config())
    assert (world.rank, world.workers, world.launcher, world.addresses) == (1, 2, "TF_CONFIG", ("a:1", "b:2"))
    assert not world.on_one_node
    chief = tf_config(0, chief=["a:1"], worker=["b:1", "a:2"])
    world = topology.of_mirrored(None, chief)
    assert (world.rank, world.local_rank, world.addresses) == (1, 0, ("a:1", "b:1", "a:2"))
    alone = topology.of_mirrored(3, tf_config(0, worker=["a:1"]))
    assert (alone.num_processes, alone.workers) == (1, 3)
    assert topology.of_mirrored(3, {"TF_CONFIG": "{}"}).workers == 3


@pytest.mark.parametrize(
    "environment",
    [
        {"TF_CONFIG": "{"},
        {"TF_CONFIG": "[1]"},
        {"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}}'},
        tf_config(2),
        tf_config(-1),
        tf_config(0, "ps", ps=["a:1"], worker=["b:1"]),
        tf_config(0, worker=["b:1"], ps=["a:1"]),
        tf_config(0, worker=["a", "b"]),
        tf_config(0, "evaluator"),
    ],
)
def test_a_tf_config_that_cannot_be_is_one_line(environment: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"^TF_CONFIG: found .*expected") as caught:
        topology.of_mirrored(None, environment)
    assert str(caught.value).isprintable()


def test_srun_and_tf_config_must_tell_the_same() -> None:
    same = tf_config(3, worker=["a:1", "a:2", "b:1", "b:2"])
    assert topology.of_mirrored(None, SRUN | same).addresses[0] == "a:1"
    with pytest.raises(UsageError, match=r"TF_CONFIG=.*SLURM_PROCID=3.*contradict"):
        topology.of_mirrored(None, SRUN | tf_config())


def test_each_task_drives_a_gpu_of_its_own(gpus) -> None:
    gpus["gpus"] = 2  # --gpus-per-node=2: both tasks see both
    world = STARTS["torch-ddp"](SRUN | {"SLURM_GPUS_ON_NODE": "2"})
    assert (world.has_own_gpus, world.gpu_index) == (False, 1)
    gpus["gpus"] = 1  # --gpus-per-task=1
    world = STARTS["torch-ddp"](SRUN | {"SLURM_GPUS_ON_NODE": "2"})
    assert (world.has_own_gpus, world.gpu_index) == (True, 0)
    for environment in (SRUN, SRUN | {"SLURM_GPUS_ON_NODE": "1"}):
        with pytest.raises(UsageError, match="found 2 on this node, but 1 GPU"):
            STARTS["torch-ddp"](environment)


def test_a_mirrored_process_drives_all_gpus_that_it_sees(gpus) -> None:
    one_a_node = SRUN | {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"}
    one_a_node["SLURM_STEP_TASKS_PER_NODE"] = "1(x2)"
    gpus["gpus"] = 4
    world = STARTS["tf-mirrored"](one_a_node | {"SLURM_GPUS_ON_NODE": "4"})
    assert (world.workers, world.worker_ranks) == (8, (4, 5, 6, 7))
    with pytest.raises(UsageError, match="each of which would drive the same 4"):
        STARTS["tf-mirrored"](SRUN | {"SLURM_GPUS_ON_NODE": "4"})
    gpus["gpus"] = 2
    world = STARTS["tf-mirrored"](SRUN | {"SLURM_GPUS_ON_NODE": "4"})
    assert (world.workers, world.worker_ranks) == (8, (6, 7))


@given(
    st.dictionaries(
        st.sampled_from([*SRUN, "RANK", "PMIX_RANK", "TF_CONFIG"]),
        st.integers(-2, 6).map(str)
        | st.sampled_from(["", "2(x2)", "a[1-2]", "[", "{}", "٣", '{"cluster": 1}']),
    ),
    st.sampled_from(list(STARTS)),
)
def test_whatever_srun_left_gives_a_world_or_a_line(changes: dict[str, str], strategy: str) -> None:
    try:
        world = STARTS[strategy](SRUN | changes)
    except UsageError as error:
        assert str(error).isprintable()
    else:
        assert 0 <= world.rank < world.num_processes <= world.workers
        assert world.local_rank <= world.rank
    assert topology.launched_rank(SRUN | changes) >= 0
