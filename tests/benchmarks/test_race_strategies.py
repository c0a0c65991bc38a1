from benchmarks.contestant import Window
from benchmarks.duel import Side
from benchmarks.race_strategies import DISTRIBUTED, base_of, header, row
from launchers.commands import LAUNCHERS


def test_each_distributed_strategy_has_its_framework_as_base() -> None:
    assert {base_of(strategy) for strategy in DISTRIBUTED} == set(LAUNCHERS) - set(DISTRIBUTED)
    assert base_of("tf-horovod") == "tf-single"


def test_a_row_says_how_much_faster_the_workers_are() -> None:
    base, distributed = (
        Side(windows=[[Window(seconds, 1.0)] * 3, [Window(seconds, 1.0)] * 3]) for seconds in (0.15, 0.1)
    )
    cells = row("digits", "torch-ddp", 2, base, distributed)
    assert cells == ("| digits | torch-ddp | 150 ms | 100 ms | 1.500 | 1.500 to 1.500 | 75.0% | 2 |")
    assert cells.count("|") == len(header(2)) + 1
