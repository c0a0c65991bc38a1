import os
import time
from pathlib import Path

import pytest

from telemetry import sampler
from telemetry.run_log import read_rows
from telemetry.sampler import Sampler, open_alone


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when the sampler waits, or works for as long as `works(number of the sample)` says."""

    class Clock:
        now = 1000.0
        works = staticmethod(lambda number: 0.001)

    def wait(descriptor: int, due_s: float) -> bool:
        Clock.now = max(Clock.now, due_s)
        return Clock.now >= descriptor

    real = Sampler.sample

    def sample(self, slot: int) -> None:
        real(self, slot)
        Clock.now += Clock.works(self.samples)

    monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
    monkeypatch.setattr(sampler, "_closed_before", wait)
    monkeypatch.setattr(Sampler, "sample", sample)
    return Clock


def run(tmp_path: Path, interval_s: float, until_s: float) -> list[dict]:
    path = tmp_path / "telemetry.jsonl"
    with open_alone(path) as file:
        Sampler(file, interval_s).run(int(until_s))
    return read_rows(path)


def test_the_grid_does_not_drift(tmp_path: Path, clock) -> None:
    rows = run(tmp_path, 2.0, 1020)
    times = [row["t_monotonic_s"] for row in rows if row["kind"] == "host"]
    assert times == [*(1000.0 + 2 * k for k in range(10)), 1020.0]
    assert rows[-1]["on_time_percent"] == 100.0
    assert rows[-1]["samples"] == 11


def test_a_slow_sample_costs_its_slots_and_no_others(tmp_path: Path, clock) -> None:
    clock.works = staticmethod(lambda number: 5.2 if number == 3 else 0.001)
    rows = run(tmp_path, 2.0, 1020)
    times = [row["t_monotonic_s"] for row in rows if row["kind"] == "host"]
    # The third began at 1004 and took till 1009.2: those of 1006 is skipped, that of 1008 comes late, the rest on time.
    assert times == [1000.0, 1002.0, 1004.0, 1009.2, 1010.0, 1012.0, 1014.0, 1016.0, 1018.0, 1020.0]
    assert rows[-1]["on_time_percent"] == 80.0


def test_a_cut_line_and_a_second_writer(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.jsonl"
    path.write_bytes(b'{"kind": "start"}\n{"kind": "ho')
    first = open_alone(path)
    assert first is not None
    assert path.read_bytes() == b'{"kind": "start"}\n'
    with first:
        assert open_alone(path) is None
    with open_alone(path):
        pass


def test_a_full_disk_loses_rows_but_cuts_none(tmp_path: Path, clock) -> None:
    class Full:
        """Takes half of a write, then says that there is no room, while `is_full`."""

        is_full = False

        def __init__(self, file) -> None:
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, content: bytes) -> None:
            self.file.write(content[: len(content) // 2] if self.is_full else content)
            if self.is_full:
                raise OSError(28, os.strerror(28))

    path = tmp_path / "telemetry.jsonl"
    file = Full(open_alone(path))
    ours = Sampler(file, 1.0)
    for slot, is_full in enumerate((False, True, True, False)):
        file.is_full = is_full
        ours.sample(slot)
    file.file.close()
    assert [row["kind"] for row in read_rows(path)] == ["start", "host", "host"]
