import re
import socket
from pathlib import Path

from telemetry import clock


def test_a_clock_is_of_one_boot_of_one_host(monkeypatch, tmp_path: Path) -> None:
    found = clock.clock()
    assert found["host"] == socket.gethostname()
    assert re.fullmatch("[0-9a-f]{8}", found["boot_id"])
    monkeypatch.setattr(clock, "BOOT_ID", tmp_path / "none")
    assert clock.clock.__wrapped__()["boot_id"] == "unknown"
