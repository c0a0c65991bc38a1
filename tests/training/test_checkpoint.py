import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from training import checkpoint
from training.checkpoint import CheckpointError, complete_steps, load, load_latest, save
from training.state import State

RECIPE_ID = "0123456789abcdef"
EXTRA = {"tokens": 4096, "strategy": "torch-single", "workers": 1}
FILES = ("model.safetensors", "optimizer.safetensors", "manifest.json")


def make_state(step: int, moments: tuple[str, ...] = ("exp_avg", "exp_avg_sq"), dtype=np.float64) -> State:
    rng = np.random.default_rng(step)

    def arrays() -> dict[str, np.ndarray]:
        return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}

    shapes = {"conv1.weight": (2, 3, 3, 3), "h.0.mlp.c_fc.bias": (4,), "fc.weight": (2, 4)}
    buffers = {f"bn1.running_{name}": rng.standard_normal(3).astype(dtype) for name in ("mean", "var")}
    return State(step, arrays(), buffers, {moment: arrays() for moment in moments})


def assert_same(ours: State, theirs: State) -> None:
    assert ours.step == theirs.step
    assert ours.moments.keys() == theirs.moments.keys()
    pairs = [(ours.parameters, theirs.parameters), (ours.buffers, theirs.buffers)]
    pairs += [(ours.moments[moment], theirs.moments[moment]) for moment in theirs.moments]
    for mine, other in pairs:
        assert mine.keys() == other.keys()
        for name, array in other.items():
            assert mine[name].dtype == array.dtype
            np.testing.assert_array_equal(mine[name], array)


def put(folder: Path, step: int, keep: int = 9, recipe_id: str = RECIPE_ID, **kind) -> Path:
    return save(folder, make_state(step, **kind), recipe_id=recipe_id, extra=EXTRA, keep=keep)


@pytest.mark.parametrize("moments", [("momentum",), ("exp_avg", "exp_avg_sq")])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_was_saved_is_loaded_to_the_last_bit(tmp_path: Path, moments, dtype) -> None:
    path = put(tmp_path / "checkpoints", 7, moments=moments, dtype=dtype)
    assert path.name == "step-00000007"
    assert {file.name for file in path.iterdir()} == set(FILES)
    state, manifest = load(path)
    assert_same(state, make_state(7, moments, dtype))
    assert state.gradients is None
    assert (manifest["step"], manifest["recipe_id"], manifest["tokens"]) == (7, RECIPE_ID, 4096)
    assert set(manifest["sha256"]) == set(FILES[:2])


def test_recorded_gradients_are_a_file_of_their_own(tmp_path: Path) -> None:
    state = make_state(3)
    state.gradients = make_state(4).parameters
    checkpoint.write_state(tmp_path / "x", state, recipe_id=RECIPE_ID, extra={}, durable=False)
    found, manifest = load(tmp_path / "x")
    assert_same(found, make_state(3))
    for name, gradient in state.gradients.items():
        np.testing.assert_array_equal(found.gradients[name], gradient)
    assert "gradients.safetensors" in manifest["sha256"]


def damaged_copies(path: Path) -> list[tuple[str, bytes]]:
    """The content cut off, and with one bit changed, at places all over the file."""
    content = path.read_bytes()
    size = len(content)
    copies = [(f"cut to {length}", content[:length]) for length in (0, 1, 8, size // 2, size - 1)]
    for offset in sorted({0, 7, 8, 9, size - 1, *range(0, size, max(1, size // 60))}):
        flipped = bytearray(content)
        flipped[offset] ^= 1 << offset % 7
        copies.append((f"bit flipped at {offset}", bytes(flipped)))
    return copies


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_skipped_with_a_reason_and_never_loaded(tmp_path: Path, name: str) -> None:
    put(tmp_path, 5)
    path = put(tmp_path, 9) / name
    whole = path.read_bytes()
    for damage, content in damaged_copies(path):
        path.write_bytes(content)
        state, manifest, skipped = load_latest(tmp_path, RECIPE_ID)
        assert state is not None
        assert state.step == 5, f"{name}, {damage}: was loaded as step {state.step} with {manifest}"
        assert_same(state, make_state(5))
        assert len(skipped) == 1, damage
        assert skipped[0].startswith("skipped checkpoint ")
        assert "step-00000009" in skipped[0]
        assert skipped[0].isprintable(), damage
    path.write_bytes(whole)
    assert load_latest(tmp_path, RECIPE_ID)[0].step == 9


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_a_reason_too(tmp_path: Path, name: str) -> None:
    path = put(tmp_path, 9)
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load(path)
    state, manifest, skipped = load_latest(tmp_path, RECIPE_ID)
    assert (state, manifest, len(skipped)) == (None, {}, 1)


@pytest.mark.parametrize(
    "edit",
    [
        {"sha256": {"model.safetensors": "0" * 64}},
        {"sha256": ["model.safetensors"]},
        {"sha256": None},
        {"step": "nine"},
        {"sha256": {"../step-00000005/model.safetensors": "0" * 64}},
    ],
)
def test_a_manifest_that_says_something_else_is_not_believed(tmp_path: Path, edit: dict) -> None:
    path = put(tmp_path, 9)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, **edit}))
    with pytest.raises(CheckpointError):
        load(path)


def test_a_file_swapped_for_another_whole_one_is_noticed(tmp_path: Path) -> None:
    old, new = put(tmp_path, 5), put(tmp_path, 9)
    shutil.copy(old / "model.safetensors", new / "model.safetensors")
    assert load_latest(tmp_path, RECIPE_ID)[0].step == 5


def test_another_recipes_checkpoint_is_skipped(tmp_path: Path) -> None:
    put(tmp_path, 5)
    put(tmp_path, 9, recipe_id="fedcba9876543210")
    state, _, skipped = load_latest(tmp_path, RECIPE_ID)
    assert state.step == 5
    assert len(skipped) == 1
    assert "fedcba9876543210" in skipped[0]


def test_the_newest_are_kept_and_an_older_one_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    for step in (2, 10, 4):
        put(tmp_path, step, keep=2)
    # By number and not by name; what was just saved may be among the older ones.
    assert complete_steps(tmp_path) == [4, 10]
    put(tmp_path, 10, keep=2, moments=("momentum",))
    assert set(load(tmp_path / "step-00000010")[0].moments) == {"momentum"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000010"]


def test_what_an_interrupted_save_left_is_no_checkpoint_and_is_swept_away(
    tmp_path: Path, monkeypatch
) -> None:
    put(tmp_path, 5)

    def killed(*_) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            put(tmp_path, 9)
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000005", ".writing-00000009"}
    assert load_latest(tmp_path, RECIPE_ID)[0].step == 5
    (tmp_path / ".deleting-step-00000001").mkdir()
    put(tmp_path, 11)
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000005", "step-00000011"}


def test_a_checkpoint_is_complete_and_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch) -> None:
    synced: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        real_fsync(handle)

    def rename(source: Path, target: Path) -> None:
        assert {path.name for path in Path(source).iterdir()} == set(FILES) <= set(synced)
        assert source.name in synced
        load(source)
        real_rename(source, target)
        synced.append("renamed")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    put(tmp_path, 9)
    assert synced[-2:] == ["renamed", tmp_path.name]


def test_a_disk_that_refuses_leaves_the_older_checkpoints(tmp_path: Path, monkeypatch) -> None:
    put(tmp_path, 5, keep=1)

    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left"):
            put(tmp_path, 9, keep=1)
    assert load_latest(tmp_path, RECIPE_ID)[0].step == 5


def test_other_names_in_the_folder_are_no_checkpoints(tmp_path: Path) -> None:
    for name in ("step-", "step-x", "step-0000000a", "notes"):
        (tmp_path / name).mkdir()
    assert complete_steps(tmp_path) == []
    assert load_latest(tmp_path, RECIPE_ID) == (None, {}, [])
    assert load_latest(tmp_path / "absent", RECIPE_ID) == (None, {}, [])
