import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from distributed.meeting import meet
from launchers.prefixes import free_port
from training.problems import UsageError


def addresses(count: int) -> list[str]:
    return [f"127.0.0.1:{free_port()}" for _ in range(count)]


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


@pytest.mark.parametrize("count", [2, 4])
def test_all_go_on_when_the_last_has_come_and_leave_their_ports_free(count: int) -> None:
    places = addresses(count)
    with ThreadPoolExecutor(count) as pool:
        early = [pool.submit(meet, places, rank) for rank in range(count - 1)]
        time.sleep(0.5)
        assert not any(each.done() for each in early)
        last = pool.submit(meet, places, count - 1)
        for each in (*early, last):
            each.result(timeout=20)
    for place in places:
        socket.create_server(("127.0.0.1", port_of(place))).close()


def test_the_first_may_come_last_and_strangers_do_not_count() -> None:
    places = addresses(3)
    with ThreadPoolExecutor(3) as pool:
        guests = [pool.submit(meet, places, 1)]
        time.sleep(0.3)
        host = pool.submit(meet, places, 0)
        time.sleep(0.3)
        for said in (b"GET / HTTP/1.1\n", b"trimaran 3\n", b""):
            with socket.create_connection(("127.0.0.1", port_of(places[0])), timeout=5) as stranger:
                stranger.sendall(said)
        guests.append(pool.submit(meet, places, 2))
        for each in (host, *guests):
            each.result(timeout=20)


def test_one_that_is_started_again_takes_its_own_place() -> None:
    places = addresses(3)
    with ThreadPoolExecutor(3) as pool:
        host = pool.submit(meet, places, 0)
        time.sleep(0.2)
        gone = socket.create_connection(("127.0.0.1", port_of(places[0])), timeout=5)
        gone.sendall(b"trimaran 1\n")
        time.sleep(0.2)
        gone.close()
        guest = pool.submit(meet, places, 1)
        time.sleep(0.5)
        assert not host.done()
        assert not guest.done()
        for each in (pool.submit(meet, places, 2), host, guest):
            each.result(timeout=20)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_port_that_is_taken_is_named(rank: int) -> None:
    places = addresses(2)
    port = port_of(places[rank])
    taken = pytest.raises(UsageError, match=f"port {port}: Address already in use")
    with socket.create_server(("127.0.0.1", port)), taken:
        meet(places, rank)


def test_it_waits_in_python_where_other_threads_go_on() -> None:
    ticks = []
    thread = threading.Thread(target=meet, args=(addresses(2), 0), daemon=True)
    thread.start()
    for _ in range(5):
        time.sleep(0.05)
        ticks.append(thread.is_alive())
    assert ticks == [True] * 5


def test_a_join_that_takes_too_long_ends_the_process_with_its_stacks() -> None:
    code = (
        "import time; from distributed.meeting import bounded\n"
        "with bounded(0.0): pass\n"
        "with bounded(30.0): pass\n"
        "with bounded(0.5): time.sleep(60)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1
    assert "line 4 in <module>" in ended.stderr
