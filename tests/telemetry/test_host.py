from types import SimpleNamespace

import pytest

from telemetry import host
from telemetry.host import HostReader


@pytest.fixture
def machine(monkeypatch) -> SimpleNamespace:
    """psutil's answers, to be changed between two readings."""
    now = SimpleNamespace(
        cpu=(10.0, 0.0, 0.0, 90.0, 0.0), cards={"lo": (9, 9), "eth0": (1000, 500)}, disk=(0, 0)
    )
    fields = ("user", "nice", "system", "idle", "iowait")

    class Times(tuple):
        def __getattr__(self, name):
            if name in fields:
                return self[fields.index(name)]
            raise AttributeError(name)

    monkeypatch.setattr(host.psutil, "cpu_times", lambda: Times(now.cpu))
    monkeypatch.setattr(host.psutil, "virtual_memory", lambda: SimpleNamespace(total=1000, available=600))
    monkeypatch.setattr(
        host.psutil,
        "net_io_counters",
        lambda pernic: {n: SimpleNamespace(bytes_recv=r, bytes_sent=s) for n, (r, s) in now.cards.items()},
    )
    monkeypatch.setattr(
        host.psutil,
        "disk_io_counters",
        lambda: now.disk and SimpleNamespace(read_bytes=now.disk[0], write_bytes=now.disk[1]),
    )
    return now


def test_rates_are_means_since_the_reading_before(machine: SimpleNamespace) -> None:
    reader = HostReader()
    first = reader.read(100.0)
    assert (first.cpu_percent, first.network_rx_kib_s, first.disk_read_kib_s) == (None, None, None)
    assert first.memory_used_bytes == 400
    machine.cpu = (16.0, 0.0, 1.5, 92.0, 0.5)  # of 10 s 7.5 busy; waiting for a disk is not
    machine.cards = {"lo": (10**9, 10**9), "eth0": (1000 + 4096, 500 + 2048)}
    machine.disk = (8192, 0)
    second = reader.read(102.0)
    assert second.cpu_percent == pytest.approx(75.0)
    assert (second.network_rx_kib_s, second.network_tx_kib_s) == (2.0, 1.0)
    assert (second.disk_read_kib_s, second.disk_write_kib_s) == (4.0, 0.0)


def test_what_cannot_be_known_is_none(machine: SimpleNamespace) -> None:
    reader = HostReader()
    reader.read(1.0)
    machine.cards, machine.disk = {"lo": (1, 1)}, None
    found = reader.read(2.0)  # not a tick of the clock later
    assert (found.cpu_percent, found.network_tx_kib_s, found.disk_write_kib_s) == (None, None, None)
    machine.cards = {"eth0": (0, 0)}
    machine.cpu = (11.0, 0.0, 0.0, 91.0, 0.0)
    again = reader.read(3.0)  # the card came anew
    assert (again.cpu_percent, again.network_rx_kib_s) == (pytest.approx(50.0), None)


def test_the_real_machine_answers() -> None:
    reader = HostReader()
    reader.read(0.0)
    found = reader.read(1.0)
    assert found.memory_used_bytes and found.memory_used_bytes > 2**20
