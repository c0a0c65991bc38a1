from pathlib import Path

import pytest

from benchmarks.contestant import Window
from benchmarks.duel import Effort, Side
from benchmarks.race_switches import HEADER, check, row, switched_entry, switches_of
from training.problems import UsageError


def test_a_row_says_what_the_switch_gains_in_time_and_memory() -> None:
    without = Side(windows=[[Window(0.2, 1.0)] * 3] * 2, peak_memory_bytes=[100.0, 100.0])
    having = Side(windows=[[Window(0.15, 1.0)] * 3] * 2, peak_memory_bytes=[50.0, 50.0])
    cells = row(("performance.compile=true", "performance.bucket_mib=1"), "torch-ddp x 2", without, having)
    expected = "| `compile=true, bucket_mib=1` | torch-ddp x 2 | 200 ms | 150 ms | 0.750 | 0.750 to 0.750 | 0.50 | 2 |"
    assert cells == expected
    assert cells.count("|") == len(HEADER) + 1


@pytest.mark.parametrize(
    ("switch", "named"),
    [
        (("steps=3",), "expected performance.key=value"),
        (("performance.xla=true", "seed=1"), "found 'seed=1'"),
        (("performance.xla=false",), "performance.xla=false is what stdlib-gpt says already"),
        (("performance.static_graph=true",), "none of tf-single has performance.static_graph=true"),
    ],
)
def test_a_switch_that_is_none_is_refused(switch: tuple[str, ...], named: str) -> None:
    check("stdlib-gpt", (), [("performance.xla=true",)], ["tf-single"])
    with pytest.raises(UsageError, match=named):
        check("stdlib-gpt", (), [("performance.xla=true",), switch], ["tf-single"])


def test_all_switches_are_those_of_the_strategies_and_the_model() -> None:
    names = [switch.removeprefix("performance.") for (switch,) in switches_of("resnet", ["torch-single"])]
    assert names == [
        "compile=true",
        "fused_optimizer=false",
        "activation_checkpointing=true",
        "channels_last=true",
    ]
    assert ("performance.flash_attention=false",) in switches_of("gpt", ["tf-single", "torch-single"])
    assert ("performance.xla=true",) in switches_of("gpt", ["tf-single"])


def test_a_switch_may_be_a_variable_of_the_environment(tmp_path: Path) -> None:
    switch = ("GLIBC_TUNABLES=", "HOROVOD_CYCLE_TIME=a=b", "performance.xla=true")
    check("stdlib-gpt", (), [switch, ("GLIBC_TUNABLES=",)], ["tf-single"])
    entry = switched_entry("tf-single", 1, "stdlib-gpt", ("seed=2",), switch, Effort(), tmp_path)
    assert (entry.environment["GLIBC_TUNABLES"], entry.environment["HOROVOD_CYCLE_TIME"]) == ("", "a=b")
    assert {"seed=2", "performance.xla=true"} < {*entry.command}
    assert not any("GLIBC" in word for word in entry.command)
