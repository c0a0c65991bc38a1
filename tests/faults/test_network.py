"""Ports that are taken and peers that never come: the run ends in a bounded time, in one line that says what it is."""

import socket
import time
from collections.abc import Iterator

import pytest

from launchers.prefixes import free_port
from tests.faults.runs import case, command, recipe_of
from tests.planting import planted

pytestmark = pytest.mark.timeout(300)
HOSTS = ("--nodes", "2", "--hosts", "127.0.0.1,127.0.0.1")
LIMIT = ("--hang-timeout-s", "6")
BOUND_S = 120
"""Joining may take five times the limit; beside that the frameworks are imported."""


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody else listens."""
    with socket.socket() as other:
        port = free_port()
        other.bind(("127.0.0.1", port))
        other.listen()
        yield port


@pytest.mark.parametrize(
    ("strategy", "where", "code", "words"),
    [
        case("torch-ddp", (), 1, "EADDRINUSE", quick=True),
        case("tf-mirrored", HOSTS, 2, "Address already in use"),
    ],
)
def test_a_port_in_use_is_told(
    strategy: str, where: tuple[str, ...], code: int, words: str, taken: int, start
) -> None:
    run = start("run", *command(strategy, *recipe_of(strategy), *where, *LIMIT, "--port", str(taken)))
    assert run.code(BOUND_S) == code, run.errors
    assert words in run.told[-1]
    assert str(taken) in run.told[-1]


@pytest.mark.parametrize(
    ("strategy", "present", "words"),
    [
        case("torch-ddp", 0, "1/2 clients joined", quick=True, name="torch-ddp-without-node-1"),
        case("torch-ddp", 1, "127.0.0.1", name="torch-ddp-without-node-0"),
        case("tf-mirrored", 0, "waits for rank 1 (no sign of life", name="tf-mirrored-without-node-1"),
        case("tf-mirrored", 1, "waits for rank 0 (no sign of life", name="tf-mirrored-without-node-0"),
    ],
)
def test_a_node_that_never_comes_is_not_waited_for_without_end(
    strategy: str, present: int, words: str, start
) -> None:
    where = (*HOSTS, "--node-rank", str(present), "--port", str(free_port()))
    run = start("run", *command(strategy, *recipe_of(strategy), *where, *LIMIT))
    began = time.monotonic()
    assert run.code(BOUND_S) == 1, run.errors
    assert time.monotonic() - began < BOUND_S
    assert run.told[-1].startswith(f"trimaran: {strategy} failed: ")
    assert words in run.told[-1]


SLEEPS = """
def plant(module):
    while RANK == "1":
        time.sleep(1)
PLANTS = {"distributed.optimizer_torch": plant, "distributed.optimizer_tf": plant}
"""
"""Rank 1 never gets to where it would join."""


@pytest.mark.parametrize("strategy", [case("torch-ddp"), case("torch-horovod"), case("tf-horovod")])
def test_a_rank_that_never_joins_is_named(strategy: str, start, tmp_path) -> None:
    run = start(
        "run", *command(strategy, *recipe_of(strategy), *LIMIT), environment=planted(tmp_path, SLEEPS)
    )
    run.assert_fails(BOUND_S)
    assert "no progress for" in run.errors
    assert "rank 1" in run.told[-1]
