"""Real runs with the recipe's switches of communication, two workers each. Most of the runs are those of conftest.py.

A GPT without BatchNorm is the same training for any number of workers, so torch-single is what they are held to.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.comparison import bounds_for, with_compression
from recipes.recipe import from_dict
from telemetry.run_log import read_rows
from tests.planting import planted

pytestmark = pytest.mark.timeout(300)
HERE = Path(__file__).parent
GPT, RESNET = (("--recipe", str(HERE / f"tiny-{family}.toml")) for family in ("gpt", "resnet"))
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
SENT = (
    ("torch-ddp", "bf16"),
    ("torch-ddp", "fp16"),
    ("tf-mirrored", "bf16"),
    ("torch-horovod", "fp16"),
    ("tf-horovod", "fp16"),
)


def column(run, key: str) -> list[float]:
    return [row[key] for row in read_rows(run.run_dir / "metrics.jsonl") if "loss" in row]


def communication(run) -> dict:
    return json.loads((run.run_dir / "run.json").read_text())["segments"][0]["settings"]["communication"]


@pytest.mark.runs("torch-ddp static", "torch-single")
def test_a_static_graph_is_the_same_training_with_accumulation_too(done) -> None:
    static, single = done
    assert static.code == 0, static.errors
    assert communication(static) == {"gradient_compression": "none", "bucket_mib": 1, "static_graph": True}
    for key in ("loss", "grad_norm"):
        assert column(static, key) == pytest.approx(column(single, key), rel=1e-12)


@pytest.mark.parametrize(
    ("strategy", "kind"),
    [
        pytest.param(
            strategy,
            kind,
            marks=[
                pytest.mark.runs(f"{strategy} sent as {kind}", "torch-single", f"torch-ddp sent as {kind}"),
                *([pytest.mark.horovod] if strategy.endswith("horovod") else []),
            ],
        )
        for strategy, kind in SENT
    ],
)
def test_compressed_gradients_are_rounded_alike_and_no_more_than_verify_allows(strategy, kind, done) -> None:
    run, single, ddp = done
    assert run.code == 0, run.errors
    assert communication(run) == {"gradient_compression": kind, "bucket_mib": 2, "static_graph": False}
    recipe = from_dict(json.loads((run.run_dir / "run.json").read_text())["recipe"])
    bound = with_compression(bounds_for(recipe), kind, workers=2).gradient
    losses, expected = column(run, "loss"), column(single, "loss")
    assert losses[0] == pytest.approx(expected[0], rel=1e-12)  # the loss travels as it is
    assert losses == pytest.approx(expected, rel=1e-3)
    norm, exact = column(run, "grad_norm")[0], column(single, "grad_norm")[0]
    assert 1e-6 < abs(norm / exact - 1) < bound
    assert norm == pytest.approx(column(ddp, "grad_norm")[0], rel=1e-9)  # whoever sends and adds them


@pytest.mark.runs("torch-ddp sent as fp16 in fp16", "torch-ddp sent as fp16")
def test_what_travels_under_a_loss_scale_comes_back_without_it(done) -> None:
    half, exact = done
    assert half.code == 0, half.errors
    assert column(half, "loss_scale") == [2.0**16] * 6
    assert column(half, "loss") == pytest.approx(column(exact, "loss"), rel=1e-3)
    assert column(half, "grad_norm") == pytest.approx(column(exact, "grad_norm"), rel=1e-2)


@pytest.mark.horovod
@pytest.mark.parametrize("strategy", ["torch-horovod", "tf-horovod"])
def test_what_horovod_does_not_send_is_refused_before_anything_starts(strategy: str, tmp_path: Path) -> None:
    command = ("launchers.train", strategy, "--workers", "2", *GPT, "--run-dir", str(tmp_path / "run"))
    refused = subprocess.run(
        [sys.executable, "-m", *command, "--dry-run", "--set", "performance.gradient_compression=bf16"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert refused.returncode == 2, refused.stderr
    (line,) = refused.stderr.splitlines()
    assert line.startswith("trimaran: performance.gradient_compression: found bf16, ")


PLANT_LARGE = """
def plant(toolbox):
    whole, calls = toolbox.loss_sum, []
    def large(*arguments):
        calls.append(1)
        return whole(*arguments) * (1e7 if RANK == "1" and len(calls) == 3 else 1.0)
    toolbox.loss_sum = large
PLANTS = {"distributed.toolbox_torch": plant}
"""


def test_a_gradient_that_is_too_large_for_what_it_travels_as_ends_the_run(tmp_path: Path) -> None:
    """The loss and the gradients of each worker are finite: the type they are sent in is not large enough."""
    command = ("launchers.train", "torch-ddp", "--workers", "2", *RESNET, "--run-dir", str(tmp_path / "run"))
    switches = ("performance.gradient_compression=fp16", "run.log_every=100")
    ended = subprocess.run(
        [sys.executable, "-m", *command, "--set", *switches],
        env={**ENVIRONMENT, **planted(tmp_path, PLANT_LARGE)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "step 3: the loss or its gradient is not finite" in ended.stderr.splitlines()[-1]


PLANT_PACKS = """
def plant(toolbox):
    from tensorflow.python.distribute import cross_device_utils
    group = cross_device_utils.group_by_size
    def counted(tensors, bytes_per_pack):
        packs = group(tensors, bytes_per_pack)
        print("packs:", [sum(t.shape.num_elements() * t.dtype.size for t in pack) for pack in packs], flush=True)
        return packs
    cross_device_utils.group_by_size = counted
PLANTS = {"distributed.toolbox_tf": plant}
"""


def test_tensorflow_sends_packs_of_what_the_recipe_says(tmp_path: Path) -> None:
    command = ("distributed.tf_mirrored", "--workers", "2", *GPT, "--run-dir", str(tmp_path / "run"))
    switches = ("performance.gradient_compression=bf16", "performance.bucket_mib=1", "model.width=256")
    ended = subprocess.run(
        [sys.executable, "-m", *command, "--set", *switches, "steps=1", "run.eval_every=-1"],
        env={**ENVIRONMENT, **planted(tmp_path, PLANT_PACKS)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    packs = {line for line in ended.stdout.splitlines() if line.startswith("packs: ")}
    sizes = [json.loads(line.removeprefix("packs: ")) for line in packs]
    (gradients,) = [each for each in sizes if len(each) > 1]
    count = json.loads((tmp_path / "run" / "run.json").read_text())["parameter_count"]
    assert sum(gradients) == 2 * count
    assert 2**20 < gradients[0] < 2 * 2**20
    assert [8] in sizes  # the loss, by itself and in its own type
