"""Over which network the processes of a run meet, told to the libraries that would guess wrong."""

import os
import socket
from collections.abc import MutableMapping

import psutil  # type: ignore[import-untyped]  # ships none

from training import stopping
from training.problems import UsageError
from training.world import World


def prepare_network(world: World, environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what the user has not: the interface for Gloo and NCCL, and for torch where the ranks meet.

    Gloo takes the interface that this host's name resolves to, often loopback or docker0, where no other node can
    reach it. Raises UsageError for a name that does not resolve and a port that is taken.
    """
    # A rank that is not there yet is told from those that wait for it.
    stopping.WATCH.enter("joining the group")
    if world.on_one_node:
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nobody else need hear
    elif world.peer is not None:
        for name, interface in interface_variables(world.peer).items():
            environment.setdefault(name, interface)
    if world.main_address is None or world.main_port is None:
        return
    if world.is_main:
        check_port(world.main_port)
    environment["MASTER_ADDR"], environment["MASTER_PORT"] = world.main_address, str(world.main_port)
    environment["RANK"], environment["WORLD_SIZE"] = str(world.rank), str(world.num_processes)


def interface_variables(host: str) -> dict[str, str]:
    """What tells Gloo and NCCL to go the way that leads to `host`; NCCL will not use loopback. Raises UsageError."""
    interface = interface_towards(host)
    libraries = ("GLOO",) if interface == "lo" else ("GLOO", "NCCL")
    return {f"{library}_SOCKET_IFNAME": interface for library in libraries}


def interface_towards(host: str) -> str:
    """The network interface by which this node reaches `host`. Nothing is sent. Raises UsageError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            ours = probe.getsockname()[0]
    except OSError as error:
        raise UsageError(
            f"{host}: {error.strerror or error}, seen from {socket.gethostname()}; the nodes of a run must know each "
            "other by name (/etc/hosts or DNS), or set GLOO_SOCKET_IFNAME and MASTER_ADDR"
        ) from None
    for name, addresses in psutil.net_if_addrs().items():
        if ours in {each.address.partition("%")[0] for each in addresses}:
            return name
    return "lo"  # 127.0.1.1 and its kind are the loopback's, but not among its addresses


def check_port(port: int) -> None:
    """Raises UsageError where something listens on `port` of this node already."""
    if problem := port_problem(port):
        raise UsageError(
            f"MASTER_PORT {port}: {problem} on {socket.gethostname()}, where rank 0 is to wait for the others; set "
            "MASTER_PORT to a free one, the same for all"
        )


def port_problem(port: int) -> str | None:
    """Why a server cannot listen on `port` of this node, None where it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            return error.strerror or str(error)
    return None
