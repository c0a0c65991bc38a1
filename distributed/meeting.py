"""The processes of tf-mirrored meet before TensorFlow joins them.

TensorFlow waits for peers with the interpreter's lock held: while it does, no thread of a process can say who is
missing, no signal is heard, and the wait has no end. So they meet here first, on the ports that TensorFlow is to take
next, and rank 0 lets all of them go on when the last has come. How long that may take is up to training/hanging.py.
"""

import contextlib
import faulthandler
import socket
import time
from collections.abc import Iterator, Sequence

from distributed.network import port_problem
from training.problems import UsageError

HELLO, GO = b"trimaran %d\n", b"go\n"
HELLO_S = 2.0
"""How long rank 0 listens to one that came and does not say who it is."""
AGAIN_S = 0.25


def meet(addresses: Sequence[str], rank: int) -> None:
    """Return when the processes of all `addresses` (host:port, in the order of the ranks) have called this.

    Raises UsageError where this rank's port is taken.
    """
    host, port = _split(addresses[rank])
    if problem := port_problem(port):
        raise UsageError(
            f"port {port}: {problem} on {socket.gethostname()}, where rank {rank} is to be reached; give another "
            "--port, or TF_CONFIG another, the same for all"
        )
    if rank == 0:
        _receive(host if _is_loopback(host) else "", port, len(addresses))
    else:
        _report(_split(addresses[0]), rank)


@contextlib.contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """For the join itself, should a peer die right then: after `seconds` (0: never) stacks to stderr, and the end."""
    if seconds:
        faulthandler.dump_traceback_later(seconds, exit=True)  # a thread of C's, which needs no lock
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _receive(host: str, port: int, processes: int) -> None:
    guests: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as opened:
        server = opened.enter_context(socket.create_server((host, port), backlog=processes))
        while len(guests) < processes - 1:
            guest = opened.enter_context(server.accept()[0])
            if (number := _who(guest, processes)) is not None:
                guests[number] = guest  # in place of an earlier one, which was started again
        for guest in guests.values():
            with contextlib.suppress(OSError):
                guest.sendall(GO)
        for guest in guests.values():
            with contextlib.suppress(OSError):
                guest.recv(1)  # closed there first, so that nothing of it lingers on the port here


def _who(guest: socket.socket, processes: int) -> int | None:
    """Its rank; None for a stranger."""
    guest.settimeout(HELLO_S)
    known = {HELLO % rank: rank for rank in range(1, processes)}
    said = b""
    with contextlib.suppress(OSError):
        while not said.endswith(b"\n") and (more := guest.recv(64)):
            said += more
    return known.get(said)


def _report(address: tuple[str, int], rank: int) -> None:
    while True:
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=HELLO_S) as host:
            host.sendall(HELLO % rank)
            host.settimeout(None)  # rank 0 may wait for others, and closes the connection if it ends
            if host.recv(len(GO)):
                return
        time.sleep(AGAIN_S)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.")
