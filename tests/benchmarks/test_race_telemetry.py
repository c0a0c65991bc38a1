from pathlib import Path

from benchmarks import race_telemetry
from benchmarks.contestant import Window
from benchmarks.duel import Side
from benchmarks.race_telemetry import entry, rows, sampler_percent_of_a_core


def test_both_sides_run_the_same_but_for_the_sampler(tmp_path: Path) -> None:
    common = ("torch-single", 1, "digits-resnet18", ("steps=3",))
    with_it, without = (entry(*common, interval_s, tmp_path / "run") for interval_s in (0.1, 0.0))
    assert with_it.command[-2:] == ["--telemetry-interval-s", "0.1"]
    assert without.command[-2:] == ["--telemetry-interval-s", "0.0"]
    assert with_it.command[:-2] == without.command[:-2]
    assert with_it.environment == without.environment


def test_the_samplers_own_time_is_measured_and_judged(monkeypatch) -> None:
    monkeypatch.setattr(race_telemetry, "SETTLES_S", 0.5)
    assert 0 < sampler_percent_of_a_core(0.1, 1.0) < 50
    side = Side(windows=[[Window(0.1, 0.1)] * 2] * 2)
    slower = Side(windows=[[Window(0.101, 0.1)] * 2] * 2)
    good, bad = rows(side, side, 0.2), rows(slower, side, 0.7)
    assert good[0].endswith("≤ 1.005 | met |")
    assert good[-1].endswith("≤ 0.5 | met |")
    assert bad[0].endswith("≤ 1.005 | **missed** |")
    assert bad[-1].endswith("≤ 0.5 | **missed** |")
