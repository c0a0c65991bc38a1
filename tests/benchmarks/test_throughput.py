import json
import subprocess
import sys

import pytest

from benchmarks.contestant import Window
from benchmarks.throughput import HEADER, Seen, limit_note, probe, row, step_s
from models.specs import training_flops
from recipes.recipe import load_recipe

BEST = {"matmul_flops_per_s": 1e12, "copy_bytes_per_s": 2e10}


def seen(*step_times_s: float) -> Seen:
    return Seen([[Window(each, each)] * 3 for each in step_times_s], [2.0**20] * len(step_times_s))


@pytest.mark.parametrize(
    ("name", "samples", "unit"), [("stdlib-gpt", 24 * 96, "tokens"), ("digits-resnet18", 96, "images")]
)
def test_a_row_tells_samples_a_second_and_the_share_of_the_devices_rate(name, samples, unit) -> None:
    recipe = load_recipe(name)
    line = row(name, recipe, "torch-ddp x 2", 2, seen(0.1, 0.1), BEST, {"device": None})
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert len(cells) == len(HEADER)
    flops_per_s = training_flops(recipe.model) * recipe.data.global_batch / 0.1 / 2
    assert cells[3] == "100 ms"
    assert cells[4] == f"{samples / 0.1:,.5g} {unit}"
    assert cells[6:9] == [f"{flops_per_s / 1e9:,.4g} G", f"{flops_per_s / 1e12:.1%}", "n/a"]
    assert cells[9] == "1 MiB"


def test_utilisation_is_of_the_published_peak_where_there_is_one() -> None:
    recipe = load_recipe("gpt2-124m-synthetic")
    line = row("gpt", recipe, "torch-single x 1", 1, seen(0.1), BEST, {"device": "NVIDIA H200"})
    flops_per_s = training_flops(recipe.model) * recipe.data.global_batch / 0.1
    assert f"| {flops_per_s / 989.4e12:.1%} |" in line


def test_the_interval_is_drawn_over_processes() -> None:
    step = step_s(seen(0.1, 0.2, 0.3))
    assert step.ours == 0.2
    assert 0.1 <= step.low < 0.2 < step.high <= 0.3


def test_the_limits_of_this_machine_are_measured() -> None:
    found = probe("float32")
    assert found["device"] is None
    assert 1e9 < found["matmul_flops_per_s"] < 1e13
    assert 1e8 < found["copy_bytes_per_s"] < 1e12
    assert (
        limit_note("a", "bf16", BEST)
        == "Beside a the device multiplied bf16 matrices at 1,000 GFLOP/s, copied at 20 GB/s."
    )
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(
            [sys.executable, "-m", "benchmarks.limits_torch", "int8"], check=True, stderr=subprocess.DEVNULL
        )
    assert json.dumps(found)
