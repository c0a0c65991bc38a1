"""docs/horovod.md stays true: its lines, flags, variables and files are those of the code."""

import re
from pathlib import Path

import pytest

from distributed import horovod_setup
from recipes.recipe import PerformanceConfig
from tests.documents import is_said, spoken, table_rows
from training.options import HorovodOptions, Options
from training.world import World

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "horovod.md").read_text()
SPEAKERS = (
    "tools/build_horovod.py",
    "distributed/horovod_setup.py",
    "distributed/topology.py",
    "launchers/commands.py",
    "launchers/nodes.py",
)


def texts() -> list[str]:
    """Every string in the code that can speak of Horovod, with an ellipsis for each value put into it."""
    return spoken(ROOT / name for name in SPEAKERS)


def rows(first_heading: str) -> list[list[str]]:
    """The cells of the one table whose first heading is this."""
    return table_rows(PAGE, first_heading)


@pytest.mark.parametrize("line", [row[0] for row in rows("line")])
def test_a_line_that_is_explained_is_one_that_is_said(line: str) -> None:
    assert is_said(line, texts()), line


def test_every_flag_and_every_variable_that_it_sets_is_shown() -> None:
    table = " ".join(cell for row in rows("flag of the scripts") for cell in row)
    own = set(HorovodOptions.__dataclass_fields__) - set(Options.__dataclass_fields__)
    assert {f"--{name.replace('_', '-')}" for name in own} == set(re.findall(r"`(--[\w-]+)", table))
    shown = set(re.findall(r"HOROVOD_\w+", table))
    everything = HorovodOptions(
        fusion_threshold_mib=1.0, cycle_time_ms=1.0, autotune=True, timeline=Path("t"), stall_check_s=1.0
    )
    environment: dict[str, str] = {}
    world = World(0, 0, 2, 2, (0,), "mpirun")
    horovod_setup.prepare_horovod(everything, world, PerformanceConfig(), environment)
    assert shown == set(environment)


def test_the_variables_of_the_build_are_those_that_the_key_knows() -> None:
    script = (ROOT / "tools" / "build_horovod.py").read_text()
    for row in rows("variable"):
        for name in re.findall(r"HOROVOD_\w+", " ".join(row)):
            assert f'"{name}"' in script, name


def test_every_file_that_is_named_is_there() -> None:
    folders = ("tools", "distributed", "training", "launchers")
    named = re.findall(rf"`((?:{'|'.join(folders)})/[\w./-]+)`", PAGE)
    assert len(named) >= 3
    assert not [name for name in named if not (ROOT / name).is_file()]
