import json
import socket
from pathlib import Path

import pytest

from distributed import network
from launchers import nodes
from launchers.nodes import Nodes, check_nodes
from training.problems import UsageError

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_ON_NODE": "8"}
TWO_HERE = Nodes(2, ("127.0.0.1", "127.0.0.1"), rank=1, port=20001)


@pytest.fixture(autouse=True)
def gpus(monkeypatch) -> dict[str, int]:
    """How many this node has."""
    count = {"gpus": 0}
    monkeypatch.setattr(nodes, "visible_gpus", lambda: count["gpus"])
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    return count


@pytest.mark.parametrize(
    ("strategy", "launcher", "workers", "where", "environment"),
    [
        ("torch-ddp", "torchrun", 3, Nodes(), {}),
        ("torch-ddp", "torchrun", 4, TWO_HERE, {}),
        ("tf-mirrored", "direct", 2, TWO_HERE, {}),
        ("torch-ddp", "srun", 4, Nodes(2), {}),  # outside of a job srun asks for one
        ("tf-horovod", "srun", 16, Nodes(2), JOB),
        ("tf-horovod", "mpirun", 4, Nodes(2), JOB),
        ("tf-horovod", "mpirun", 4, Nodes(2, ("a", "b")), {}),
        ("torch-horovod", "horovodrun", 4, Nodes(2, ("a", "b")), {}),
    ],
)
def test_what_a_launcher_can_reach(strategy, launcher, workers, where, environment) -> None:
    check_nodes(strategy, launcher, workers, where, environment)


@pytest.mark.parametrize(
    ("strategy", "launcher", "workers", "where", "environment", "line"),
    [
        ("torch-ddp", "srun", 4, Nodes(0), {}, "^--nodes: found 0, expected an integer of 1 or more"),
        ("torch-single", "direct", 2, Nodes(2), {}, "^--nodes: found 2, but torch-single is one worker"),
        ("torch-ddp", "srun", 3, Nodes(2), {}, "^--workers: found 3, expected a multiple of --nodes 2"),
        (
            "torch-ddp",
            "torchrun",
            4,
            Nodes(2),
            {},
            "^--nodes 2: torchrun must know them: .*--node-rank; or let",
        ),
        ("tf-mirrored", "direct", 2, Nodes(2), JOB, "^--nodes 2: direct must know them: .*--launcher srun"),
        ("tf-horovod", "mpirun", 4, Nodes(2), {}, "^--nodes 2: mpirun must know them: give --hosts"),
        ("tf-horovod", "horovodrun", 4, Nodes(2), JOB, "^--nodes 2: horovodrun must know them"),
        (
            "torch-ddp",
            "torchrun",
            4,
            Nodes(2, ("a",)),
            {},
            "^--hosts: found 1 and --node-rank 0, expected --nodes 2",
        ),
        ("torch-ddp", "torchrun", 4, Nodes(2, ("a", "b"), 2), {}, "^--hosts: found 2 and --node-rank 2"),
        ("torch-ddp", "srun", 4, Nodes(2, ("a", "b")), {}, "^--hosts: Slurm chooses"),
        (
            "torch-ddp",
            "torchrun",
            2,
            Nodes(hostfile=Path("h")),
            {},
            "^--hostfile: is for mpirun and horovodrun",
        ),
        (
            "tf-mirrored",
            "direct",
            4,
            TWO_HERE,
            {},
            "^--workers: found 4 of tf-mirrored on 2 nodes without GPUs",
        ),
        ("torch-ddp", "srun", 3, Nodes(3), JOB, "^--nodes: found 3, but job 7 has 2"),
        ("torch-ddp", "srun", 18, Nodes(2), JOB, "^--workers: found 9 on each node, but job 7 has 8 core"),
    ],
)
def test_what_it_cannot_is_one_line(strategy, launcher, workers, where, environment, line) -> None:
    with pytest.raises(UsageError, match=line) as caught:
        check_nodes(strategy, launcher, workers, where, environment)
    assert str(caught.value).isprintable()


def test_each_node_has_its_own_gpus(gpus) -> None:
    gpus["gpus"] = 2
    check_nodes("torch-ddp", "torchrun", 4, TWO_HERE, {})
    check_nodes("tf-mirrored", "direct", 4, TWO_HERE, {})  # one process drives both of a node
    with pytest.raises(UsageError, match="found 3 on this node, but 2 GPU"):
        check_nodes("torch-ddp", "torchrun", 6, TWO_HERE, {})


def test_the_first_node_finds_a_port_that_is_taken(monkeypatch) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        check_nodes("torch-ddp", "torchrun", 2, Nodes(2, ("a", "b"), 1, port=port), {})
        with pytest.raises(UsageError, match=f"^MASTER_PORT {port}: "):
            check_nodes("torch-ddp", "torchrun", 2, Nodes(2, ("a", "b"), 0, port=port), {})


def test_a_node_is_told_of_the_others(monkeypatch) -> None:
    assert TWO_HERE.environment("torchrun") == {"GLOO_SOCKET_IFNAME": "lo"}
    found = TWO_HERE.environment("direct")
    assert json.loads(found.pop("TF_CONFIG")) == {
        "cluster": {"worker": ["127.0.0.1:20001", "127.0.0.1:20002"]},
        "task": {"type": "worker", "index": 1},
    }
    monkeypatch.setattr(network, "interface_towards", {"a": "ib0"}.__getitem__)
    elsewhere = Nodes(2, ("a", "b"), 1)
    both = {"GLOO_SOCKET_IFNAME": "ib0", "NCCL_SOCKET_IFNAME": "ib0"}
    assert elsewhere.environment("torchrun") == both
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib1")
    assert elsewhere.environment("torchrun") == {**both, "NCCL_SOCKET_IFNAME": "ib1"}
    for launcher, where in (("mpirun", elsewhere), ("srun", Nodes(2)), ("torchrun", Nodes())):
        assert where.environment(launcher) == {}


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("a slots=2\nb slots=3\n", 5),
        ("# two nodes\n\na slots=2 # the big one\n   \nb\n", 3),
        ("a max_slots=9 slots=4", 4),
        ("a\nb\nc", 3),
        ("#a slots=8\n", 0),
        ("", 0),
    ],
)
def test_a_hostfile_has_as_many_slots_as_workers(tmp_path: Path, text: str, slots: int) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text(text)
    nodes.check_hostfile(hostfile, slots)
    with pytest.raises(UsageError) as caught:
        nodes.check_hostfile(hostfile, slots + 1)
    assert str(caught.value).startswith(
        f"--workers: found {slots + 1}, but the hosts in {hostfile} have {slots} slot"
    )


@pytest.mark.parametrize("content", [None, b"a slots=two", b"a slots=", b"\xff\xfe slots=2"])
def test_a_hostfile_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    hostfile = tmp_path / "hosts"
    if content is not None:
        hostfile.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        nodes.check_hostfile(hostfile, 1)
    line = str(caught.value)
    assert line.isprintable()
    assert line.startswith(f"--hostfile {hostfile}: ")
    assert line.endswith("expected lines of the form: host slots=4")
