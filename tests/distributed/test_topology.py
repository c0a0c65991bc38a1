from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed import devices as gpu_devices
from distributed import topology
from distributed.devices import visible_gpus, warn_of_devices
from training.problems import UsageError
from training.world import World

TORCHRUN = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}
words = st.integers(-2, 6).map(str) | st.sampled_from(["", " ", "one", "1.0", "1e3", "٣", "0x1", "-"])


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch) -> Path:
    """A machine whose devices are those that a test puts into this folder."""
    devices = tmp_path / "dev"
    devices.mkdir()
    for name in ("null", "nvidiactl", "nvidia-uvm", "nvidia-caps", "nvidia"):
        (devices / name).touch()
    real = visible_gpus
    for module in (topology, gpu_devices):
        monkeypatch.setattr(module, "visible_gpus", lambda environment={}: real(environment, devices))
    return devices


def add_gpus(devices: Path, count: int) -> None:
    for index in range(count):
        (devices / f"nvidia{index}").touch()


def one_line(caught: pytest.ExceptionInfo) -> str:
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_torchrun_numbers_its_workers() -> None:
    assert topology.of_torch("torch-ddp", TORCHRUN) == World(3, 1, 4, 4, (3,), "torchrun", False)
    here = {**TORCHRUN, "RANK": "1", "WORLD_SIZE": "2"}
    assert topology.of_torch("torch-ddp", here) == World(1, 1, 2, 2, (1,), "torchrun", True)
    assert not topology.of_torch("torch-ddp", here).is_main


@pytest.mark.parametrize("missing", TORCHRUN)
def test_a_variable_that_is_missing_is_named_with_the_command_that_sets_it(missing: str) -> None:
    environment = {name: value for name, value in TORCHRUN.items() if name != missing}
    with pytest.raises(UsageError) as caught:
        topology.of_torch("torch-ddp", environment)
    line = one_line(caught)
    assert line.startswith(f"torch-ddp: {missing} not set")
    assert "torchrun --nproc-per-node=N -m distributed.torch_ddp" in line
    assert "python -m launchers.train torch-ddp" in line


@pytest.mark.parametrize(
    "change",
    [
        {"RANK": "4"},
        {"RANK": "-1"},
        {"RANK": "0"},
        {"LOCAL_RANK": "2"},
        {"LOCAL_WORLD_SIZE": "5"},
        {"WORLD_SIZE": "0", "RANK": "0"},
        {"LOCAL_WORLD_SIZE": "0", "LOCAL_RANK": "0"},
    ],
)
def test_numbers_that_contradict_each_other_are_all_shown(change: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"contradict") as caught:
        topology.of_torch("torch-ddp", {**TORCHRUN, **change})
    line = one_line(caught)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        assert f"{name}={ {**TORCHRUN, **change}[name] }" in line


@given(st.dictionaries(st.sampled_from(list(TORCHRUN)), words), st.booleans())
def test_whatever_is_in_the_environment_gives_a_world_or_a_line(changes: dict[str, str], whole: bool) -> None:
    environment = {**TORCHRUN, **changes} if whole else changes
    try:
        world = topology.of_torch("torch-ddp", environment)
    except UsageError as error:
        assert str(error).isprintable()
        assert any(name in str(error) for name in TORCHRUN)
    else:
        assert 0 <= world.rank < world.workers == world.num_processes
        assert world.local_rank <= world.rank
        assert world.worker_ranks == (world.rank,)
    rank = environment.get("RANK", "")
    assert topology.launched_rank(environment) == (int(rank) if rank.isdecimal() else 0)


@pytest.mark.parametrize(
    "environment", [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"OMPI_COMM_WORLD_SIZE": "1", "PMI_SIZE": "1"}]
)
def test_a_single_strategy_is_this_process(environment: dict[str, str]) -> None:
    assert topology.alone("tf-single", environment) == World(0, 0, 1, 1, (0,), "direct")


@pytest.mark.parametrize("strategy", ["torch-single", "tf-single", "tf-mirrored"])
def test_several_copies_of_a_strategy_of_one_process_are_refused(strategy: str) -> None:
    with pytest.raises(UsageError, match=f"^WORLD_SIZE: found 2 .*{strategy}") as caught:
        if strategy == "tf-mirrored":
            topology.of_mirrored(2, {"WORLD_SIZE": "2"})
        else:
            topology.alone(strategy, {"WORLD_SIZE": "2"})
    assert f"python -m distributed.{strategy.replace('-', '_')}" in one_line(caught)
    with pytest.raises(UsageError, match=r"^WORLD_SIZE: found 'two'"):
        topology.alone(strategy, {"WORLD_SIZE": "two"})


@pytest.mark.parametrize(
    ("name", "launcher"),
    [("HOROVOD_SIZE", "horovodrun"), ("OMPI_COMM_WORLD_SIZE", "mpirun"), ("PMI_SIZE", "mpirun")],
)
def test_so_are_the_copies_that_mpirun_makes_of_it(name: str, launcher: str) -> None:
    for start in (topology.alone, lambda _, environment: topology.of_mirrored(2, environment)):
        with pytest.raises(UsageError) as caught:
            start("tf-mirrored", {name: "2", "WORLD_SIZE": "1"})
        assert one_line(caught).startswith(f"{name}: found 2 ({launcher}), but tf-mirrored is one process")


def test_one_process_drives_all_gpus_or_one_core_unless_told_otherwise(machine: Path) -> None:
    assert topology.of_mirrored(None, {}).workers == 1
    assert topology.of_mirrored(3, {}) == World(0, 0, 1, 3, (0, 1, 2), "direct")
    add_gpus(machine, 4)
    assert topology.of_mirrored(None, {}).workers == 4
    assert topology.of_mirrored(None, {"CUDA_VISIBLE_DEVICES": "2,3"}).workers == 2
    with pytest.raises(UsageError, match=r"^--workers: found 0"):
        topology.of_mirrored(0, {})


@pytest.mark.parametrize(
    ("present", "chosen", "count"),
    [
        (0, None, 0),
        (4, None, 4),
        (12, None, 12),
        (4, "", 0),
        (4, "-1", 0),
        (4, "0", 1),
        (4, "3,1", 2),
        (4, "GPU-8f6d,GPU-77aa", 2),
        (4, "0,-1,1", 1),  # CUDA stops at the first that is none
        (2, " 1, 0, 2", 2),
        (2, "0,5,1", 1),
        (4, "zero", 0),
        (0, "0,1", 0),  # a variable left over from another machine
        (1, "0,1", 1),
    ],
)
def test_gpus_are_those_that_are_there_and_chosen(
    machine: Path, present: int, chosen: str | None, count: int
) -> None:
    add_gpus(machine, present)
    environment = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    assert topology.visible_gpus(environment) == count


def test_more_workers_than_gpus_are_refused_on_this_node_alone(machine: Path) -> None:
    add_gpus(machine, 2)
    assert topology.of_torch("torch-ddp", TORCHRUN).workers == 4  # two nodes of two
    for start in (
        lambda: topology.of_mirrored(3, {}),
        lambda: topology.of_torch("torch-ddp", {**TORCHRUN, "LOCAL_WORLD_SIZE": "3"}),
        lambda: topology.of_torch("torch-ddp", {**TORCHRUN, "CUDA_VISIBLE_DEVICES": "1"}),
    ):
        with pytest.raises(UsageError, match=r"^--workers: found [23] on this node, but [12] GPU") as caught:
            start()
        assert "CUDA_VISIBLE_DEVICES=" in one_line(caught)
    # Hidden GPUs mean the CPU, whose cores may be shared.
    assert topology.of_mirrored(3, {"CUDA_VISIBLE_DEVICES": ""}).workers == 3


def test_what_was_asked_for_and_is_not_there_is_one_warning(monkeypatch, capsys) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})

    def warnings(workers: int, rank: int = 0, uses_gpu: bool = False, **environment: str) -> list[str]:
        world = World(rank, rank, workers, workers, (rank,), "torchrun")
        warn_of_devices(world, uses_gpu, environment)
        return capsys.readouterr().err.splitlines()

    assert warnings(2) == []
    assert warnings(2, CUDA_VISIBLE_DEVICES="") == warnings(2, CUDA_VISIBLE_DEVICES="-1") == []
    (line,) = warnings(2, CUDA_VISIBLE_DEVICES="0,1")
    assert "CUDA_VISIBLE_DEVICES=0,1, but no usable GPU; training on the CPU" in line
    assert warnings(2, rank=1, CUDA_VISIBLE_DEVICES="0,1") == []
    assert warnings(3, uses_gpu=True, CUDA_VISIBLE_DEVICES="0,1") == []
    (line,) = warnings(3)
    assert "3 workers share 2 CPU core(s)" in line
    assert "oversubscribed" in line
