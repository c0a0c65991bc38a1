import errno
import hashlib
import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.training.states import RECIPE_ID, make_state, put
from training import checkpoint, tensor_file
from training.checkpoint import CheckpointError, complete_steps, load, load_latest
from training.loss_scale import LossScale
from training.state import State

FILES = ("model.safetensors", "optimizer.safetensors", "manifest.json")


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


def test_the_loss_scale_is_in_the_manifest(tmp_path: Path) -> None:
    state = make_state(3)
    state.loss_scale = LossScale(2.0**12, 5, 2)
    checkpoint.write_state(tmp_path / "x", state, recipe_id=RECIPE_ID, extra={}, durable=False)
    found, manifest = load(tmp_path / "x")
    assert found.loss_scale == LossScale(2.0**12, 5, 2)
    assert manifest["loss_scale"] == {"scale": 4096.0, "good_steps": 5, "skipped_steps": 2}
    assert load(put(tmp_path, 4))[0].loss_scale is None


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
        {"sha256": {"": "0" * 64}},
        {"sha256": {"a\0b": "0" * 64}},
        {"step": 5},
        {"step": True},
        {"step": 9.0},
        {"step": -9},
        {"step": 1e999},
    ],
)
def test_a_manifest_that_says_something_else_is_not_believed(tmp_path: Path, edit: dict) -> None:
    path = put(tmp_path, 9)
    manifest = {**json.loads((path / "manifest.json").read_text()), **edit}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError):
        load(path)
    del manifest["manifest_sha256"]  # nor if someone took the trouble to make it whole
    manifest["manifest_sha256"] = checkpoint._manifest_digest(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError):
        load(path)


@pytest.mark.parametrize(
    "text", ["", "[" * 10**5, "null", "[]", "{}", "9" * 5000, " " * 2**21 + "{}", "\xff\xfe"]
)
def test_a_manifest_that_is_none_at_all_is_told_so(tmp_path: Path, text: str) -> None:
    path = put(tmp_path, 9)
    (path / "manifest.json").write_text(text, "latin-1")
    with pytest.raises(CheckpointError, match=r"manifest.json: not a readable manifest \("):
        load(path)


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"",
            b"\xff" * 64,
            (2**63).to_bytes(8, "little") + b"{}",
            (2).to_bytes(8, "little") + b"{}" + b"more",
        ),
        (64).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[4294967296],"data_offsets":[0,4]}}  ',
        (64).to_bytes(8, "little")
        + b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'.ljust(64)
        + b"1234",
    ],
)
def test_tensors_that_are_none_are_told_even_with_the_right_digest(tmp_path: Path, content: bytes) -> None:
    path = put(tmp_path, 9)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["manifest_sha256"]
    (path / "model.safetensors").write_bytes(content)
    manifest["sha256"]["model.safetensors"] = hashlib.sha256(content).hexdigest()
    manifest["manifest_sha256"] = checkpoint._manifest_digest(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"model.safetensors: cannot be read"):
        load(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = put(tmp_path, 9)
    for name in ("model.safetensors", "manifest.json"):
        (path / name).unlink()
        os.mkfifo(path / name)
        with pytest.raises(CheckpointError, match=name):
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


@pytest.mark.parametrize(
    ("module", "call"),
    [(tensor_file, "allocate"), (os, "fsync"), (os, "rename")],
    ids=lambda each: str(each)[:8],
)
def test_a_disk_that_refuses_leaves_the_older_checkpoints_and_no_half_of_this_one(
    tmp_path: Path, monkeypatch, module, call: str
) -> None:
    put(tmp_path, 5, keep=1)

    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, call, full)
        with pytest.raises(OSError, match=r"No space left"):
            put(tmp_path, 9, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]
    assert load_latest(tmp_path, RECIPE_ID)[0].step == 5


def test_a_file_that_may_not_grow_so_large_is_one_clean_error(tmp_path: Path) -> None:
    """The kernel's own refusal: without the space reserved, half of a file would be there by then."""
    put(tmp_path, 5)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            put(tmp_path, 9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]


def test_all_space_is_reserved_before_anything_is_written(tmp_path: Path, monkeypatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(checkpoint, "reserve", lambda path, size: calls.append(f"reserve {size}"))
    monkeypatch.setattr(
        checkpoint, "write_tensors", lambda *_, durable, rest: calls.append("write") or "0" * 64
    )
    put(tmp_path, 9)
    assert [call.split()[0] for call in calls] == ["reserve", "reserve", "write", "write"]
    assert sum(int(call.split()[1]) for call in calls[:2]) == checkpoint.bytes_needed(make_state(9))


def test_other_names_in_the_folder_are_no_checkpoints(tmp_path: Path) -> None:
    for name in ("step-", "step-x", "step-0000000a", "step-9", "step-0000000٣", "step-0000000²", "notes"):
        (tmp_path / name).mkdir()
    assert complete_steps(tmp_path) == []
    assert load_latest(tmp_path, RECIPE_ID) == (None, {}, [])
    assert load_latest(tmp_path / "absent", RECIPE_ID) == (None, {}, [])
