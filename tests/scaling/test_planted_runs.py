"""Real studies of real runs, each with one fault planted in the training: does the decomposition name it?"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scaling.analysis import analyse
from tests.planting import planted, slow_data, slow_exchange

TINY = ("--set", "steps=40", "run.log_every=2", "model.depth=10", "model.width=8", "data.global_batch=8")
DELAY_S = 0.06
ATTEMPTS = 4
FAULTS = {
    "stragglers": f"""
def plant(toolbox):
    whole = toolbox.loss_sum
    def late(*arguments):
        if os.environ["RANK"] == "1":
            time.sleep({DELAY_S})
        return whole(*arguments)
    toolbox.loss_sum = late
PLANTS = {{"distributed.toolbox_torch": plant}} if RANK else {{}}
""",
    "data": slow_data(DELAY_S) + 'PLANTS = {"training.feed": slow_data} if RANK else {}',
    "exchange": slow_exchange(DELAY_S) + 'PLANTS = {"torch.nn.parallel": slow_exchange} if RANK else {}',
}
"""Planted in the training processes alone, which are numbered: the measuring command imports these modules too."""


def study(folder: Path, plant: str) -> dict:
    options = ("--name", "s", "--recipes", "study-resnet", "--strategies", "torch-ddp", "--workers", "2")
    ended = subprocess.run(
        [sys.executable, "-m", "scaling.study", *options, "--repetitions", "1", *TINY],
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **planted(folder, FAULTS[plant])},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (folder / "studies" / "s" / "report.html").exists()
    return analyse(folder / "studies" / "s")


def decomposed(folder: Path, plant: str) -> dict:
    """The decomposition of a study whose runs were steady: on a machine with other work, not every one is."""
    reasons = []
    for attempt in range(ATTEMPTS):
        cases = study(folder / str(attempt), plant)["cases"]
        (found,) = [case["decomposition"] for case in cases if case["strategy"] == "torch-ddp"]
        if found["reason"] is None:
            return found
        assert "found no steady run" in found["reason"], found["reason"]
        reasons.append(found["reason"])
    pytest.fail(f"{ATTEMPTS} studies without a steady run: {reasons}")


@pytest.mark.parametrize("plant", FAULTS)
@pytest.mark.timeout(600)
def test_a_planted_fault_is_the_largest_loss_and_in_the_right_part(plant: str, tmp_path: Path) -> None:
    found = decomposed(tmp_path, plant)
    parts = {name: part["seconds"]["value"] for name, part in found["parts"].items()}
    assert parts[plant] > 0.75 * DELAY_S, parts
    for name in {"stragglers", "data", "exchange"} - {plant}:
        assert parts[name] < 0.5 * DELAY_S, parts
    assert sum(parts.values()) == pytest.approx(found["step_s"]["value"], rel=0.2)
