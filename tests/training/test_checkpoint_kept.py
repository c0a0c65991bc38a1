"""Which checkpoints stay: the newest, the best, and whole ones before those of a future that is not to be."""

import math
from pathlib import Path

import pytest

from tests.training.states import RECIPE_ID, make_state, put
from training import checkpoint
from training.checkpoint import complete_steps, load, save


def test_the_newest_are_kept_and_an_older_one_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    for step in (2, 10, 4):
        put(tmp_path, step, keep=2)
    # By number and not by name; what was just saved may be among the older ones.
    assert complete_steps(tmp_path) == [4, 10]
    put(tmp_path, 10, keep=2, moments=("momentum",))
    assert set(load(tmp_path / "step-00000010")[0].moments) == {"momentum"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000010"]


def scored(folder: Path, losses: dict[int, object], keep: int) -> list[int]:
    for step, loss in losses.items():
        save(folder, make_state(step), recipe_id=RECIPE_ID, extra={"eval_loss": loss}, keep=keep)
    return complete_steps(folder)


@pytest.mark.parametrize(
    ("losses", "left"),
    [
        ({1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5, 5: 1.5}, [2, 4, 5]),
        ({1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0}, [2, 3, 4]),  # of two that are alike the newer one
        ({1: 1.0, 2: 2.0, 3: 0.5, 4: None}, [3, 4]),  # among the newest already
        ({1: None, 2: math.nan, 3: -math.inf, 4: 9.0, 5: None, 6: None}, [4, 5, 6]),
        ({1: None, 2: None, 3: None}, [2, 3]),
        ({1: True, 2: "0.1", 3: None, 4: None}, [3, 4]),
    ],
)
def test_the_best_by_its_evaluation_stays_beside_the_newest(tmp_path: Path, losses: dict, left: list) -> None:
    assert scored(tmp_path, losses, keep=2) == left


def test_a_damaged_manifest_is_nobodys_best(tmp_path: Path) -> None:
    scored(tmp_path, {1: 0.1, 2: 5.0}, keep=2)
    manifest = tmp_path / "step-00000001" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("0.1", "0.2"))
    assert scored(tmp_path, {3: 6.0, 4: 6.0}, keep=2) == [2, 3, 4]


def test_what_lies_past_a_resumed_step_is_set_aside_and_not_counted(tmp_path: Path) -> None:
    for step in (3, 6, 9):
        put(tmp_path, step)
    notes = checkpoint.set_aside(tmp_path, after=3)
    assert [note.split(": ")[0] for note in notes] == [
        f"checkpoint of step {step} set aside as {tmp_path}/set-aside-step-0000000{step}" for step in (6, 9)
    ]
    assert complete_steps(tmp_path) == [3]
    put(tmp_path, 4, keep=2)
    put(tmp_path, 6, keep=2)
    assert len(checkpoint.set_aside(tmp_path, after=4)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("set-aside-step-00000006", "set-aside-step-00000006-2", "set-aside-step-00000009", "step-00000004")
    ]
    assert load(tmp_path / "set-aside-step-00000009")[0].step == 9  # all of it is there still
    assert checkpoint.set_aside(tmp_path / "absent", after=0) == []
