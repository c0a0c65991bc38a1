import socket

import psutil
import pytest

from distributed import network
from training.problems import UsageError
from training.world import World

HERE = {"GLOO_SOCKET_IFNAME": "lo"}


def world(**changes) -> World:
    return World(
        **{
            **dict(
                zip(
                    ("rank", "local_rank", "num_processes", "workers", "worker_ranks", "launcher"),
                    (1, 0, 2, 2, (1,), "srun"),
                    strict=True,
                )
            ),
            **changes,
        }
    )


def test_the_ranks_of_one_node_meet_on_loopback() -> None:
    environment: dict[str, str] = {}
    network.prepare_network(world(), environment)
    assert environment == HERE


def test_over_several_nodes_they_meet_where_the_others_can_reach_them(monkeypatch) -> None:
    monkeypatch.setattr(network, "interface_towards", {"node1": "ib0", "node3": "lo"}.__getitem__)
    environment: dict[str, str] = {}
    meeting = {"main_address": "node1", "main_port": 20001}
    network.prepare_network(world(on_one_node=False, peer="node1", **meeting), environment)
    assert environment == {
        "GLOO_SOCKET_IFNAME": "ib0",
        "NCCL_SOCKET_IFNAME": "ib0",
        "MASTER_ADDR": "node1",
        "MASTER_PORT": "20001",
        "RANK": "1",
        "WORLD_SIZE": "2",
    }
    environment = {}
    network.prepare_network(world(on_one_node=False, peer="node3"), environment)
    assert environment == HERE  # NCCL will not use loopback between nodes
    mine = {"GLOO_SOCKET_IFNAME": "eth7", "NCCL_SOCKET_IFNAME": "eth8"}
    environment = dict(mine)
    network.prepare_network(world(on_one_node=False, peer="node1"), environment)
    assert environment == mine
    environment = {}
    network.prepare_network(world(on_one_node=False), environment)
    assert environment == {}  # torchrun over several nodes: Gloo's own choice


def test_an_interface_is_that_of_the_route() -> None:
    assert network.interface_towards("127.0.0.1") == "lo"
    assert network.interface_towards("127.0.1.7") == "lo"
    addresses = psutil.net_if_addrs()
    for name, each in addresses.items():
        for address in each:
            if address.family == socket.AF_INET and name != "lo":
                assert (
                    network.interface_towards(address.address) in addresses
                )  # one's own is reached by loopback


def test_a_name_that_nobody_knows_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"^no-such-host\.invalid: .*must know each other by name"):
        network.interface_towards("no-such-host.invalid")


def test_a_port_that_is_taken_is_told_by_rank_0_before_the_others_wait() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        meeting = {"main_address": "127.0.0.1", "main_port": port}
        network.prepare_network(world(**meeting), {})
        with pytest.raises(UsageError, match=f"^MASTER_PORT {port}: Address already in use on "):
            network.prepare_network(world(rank=0, **meeting), {})
