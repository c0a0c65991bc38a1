import json

import pytest

from distributed import allreduce


@pytest.mark.parametrize(("ranks", "factor"), [(1, 0.0), (2, 1.0), (4, 1.5), (512, 2 * 511 / 512)])
def test_bus_bandwidth_is_that_of_nccl_tests(ranks: int, factor: float) -> None:
    assert allreduce.bus_bandwidth(10**9, 0.5, ranks) == pytest.approx(2e9 * factor)


def test_the_median_call_is_measured_and_warm_ups_are_not(monkeypatch) -> None:
    clock, calls = [0.0], []

    def reduce(elements: int) -> None:
        calls.append(elements)
        usual = 0.25 if elements == allreduce.ELEMENTS else 0.03
        number = calls.count(elements)
        clock[0] += 9.0 if number <= allreduce.WARM_UPS else usual if number % 5 else 4.0

    monkeypatch.setattr(allreduce.time, "perf_counter", lambda: clock[0])
    figures = allreduce.measure(reduce, 4)
    assert len(calls) == 2 * (allreduce.WARM_UPS + allreduce.REPEATS)
    assert (figures["ranks"], figures["bytes"], figures["median_s"]) == (4, 16 * 2**20, pytest.approx(0.25))
    assert figures["bus_bytes_per_s"] == pytest.approx(16 * 2**20 / 0.25 * 1.5)
    assert figures["latency_s"] == pytest.approx(0.03 / 6)


def test_a_sum_that_is_wrong_is_no_result(capsys) -> None:
    figures = {"ranks": 2, "bytes": 4}
    assert allreduce.report(figures, 2.0, rank=1) == 0
    assert capsys.readouterr().out == ""
    assert allreduce.report(figures, 2.0, rank=0) == 0
    assert json.loads(capsys.readouterr().out) == figures
    with pytest.raises(SystemExit, match=r"rank 1: a sum of ones over 2 ranks is 1\.0"):
        allreduce.report(figures, 1.0, rank=1)
