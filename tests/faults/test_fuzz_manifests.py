"""Whatever lies where a checkpoint lay: what was saved is loaded, or it is skipped in one line, and nothing changes."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tests.faults.fuzzing import (
    JSON_TEXT,
    NODES,
    SCALARS,
    VALUES,
    as_json,
    damaged,
    examples,
    in_time,
    is_one_line,
    replace,
    tree,
)
from tests.faults.saved_states import RECIPE, SAVED, fits, is_saved
from training import checkpoint
from training.checkpoint import MANIFEST, MODEL_FILE, OPTIMIZER_FILE, CheckpointError
from training.options import Options
from training.run import Run, open_run
from training.world import World

FILES = (MANIFEST, MODEL_FILE, OPTIMIZER_FILE)
ALONE = World(0, 0, 1, 1, (0,), "direct")
NEWEST = Path("checkpoints/step-00000008")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A run with checkpoints of steps 4 and 8."""
    run_dir = tmp_path_factory.mktemp("original")
    for state in SAVED.values():
        extra = {"tokens": 0, "strategy": "tf-single", "workers": 1}
        checkpoint.save(run_dir / "checkpoints", state, recipe_id=RECIPE.recipe_id, extra=extra, keep=2)
    content = {"format": 1, "recipe": RECIPE.as_dict(), "recipe_id": RECIPE.recipe_id, "micro_batches": 1}
    (run_dir / "run.json").write_text(json.dumps({**content, "segments": [{"first_step": 0}]}))
    return run_dir


@pytest.fixture
def fresh(original: Path, tmp_path: Path):
    """Makes a copy of it, in place of the copy before."""

    def make() -> Path:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return Path(shutil.copytree(original, tmp_path / "run"))

    return make


def resume(run_dir: Path) -> Run:
    """As a script opens it. Nothing waits, and nothing is changed."""
    before = tree(run_dir)
    run = in_time(lambda: open_run(Options(run_dir=run_dir, resume=True), "torch-single", ALONE))
    assert tree(run_dir) == before
    assert all(map(is_one_line, run.notes)), run.notes
    return run


def check_skipped_or_saved(run_dir: Path) -> None:
    """The newest checkpoint was tampered with: it is loaded as it was saved, or the one before it is."""
    try:
        state, _ = in_time(lambda: checkpoint.load(run_dir / NEWEST))
    except CheckpointError as error:
        assert is_one_line(error), error
        assert str(run_dir / NEWEST) in str(error)
        run = resume(run_dir)
        assert run.start.step == 4
        assert any(str(run_dir / NEWEST) in note for note in run.notes), run.notes
    else:
        assert is_saved(state)
        run = resume(run_dir)
    assert is_saved(run.start)


def sign(folder: Path) -> None:
    """Make the digests right again, as somebody does who edits a checkpoint on purpose."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    if isinstance(manifest.get("sha256"), dict):
        for name in manifest["sha256"].keys() & {MODEL_FILE, OPTIMIZER_FILE}:
            manifest["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    manifest.pop("manifest_sha256", None)
    manifest["manifest_sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(manifest))


def check_signed(run_dir: Path) -> Run:
    """What is signed anew may be another state, but one that can be restored."""
    run = resume(run_dir)
    assert run.start.step in (4, 8), run.start.step
    assert fits(run.start), "a state that no script can restore"
    assert type(run.resumed_tokens) is int and run.resumed_tokens >= 0
    if run.start.step == 4:
        assert is_saved(run.start)
        assert any(str(run_dir / NEWEST) in note for note in run.notes), run.notes
    return run


def test_the_untouched_run_goes_on_from_its_newest_checkpoint(fresh) -> None:
    run = resume(fresh())
    assert (run.start.step, run.notes) == (8, [])
    assert is_saved(run.start)


@examples(60)
@given(st.sampled_from(FILES), st.data())
def test_damaged_bytes_are_skipped(fresh, name: str, data: st.DataObject) -> None:
    run_dir = fresh()
    path = run_dir / NEWEST / name
    path.write_bytes(data.draw(damaged(path.read_bytes(), st.binary(max_size=6))))
    check_skipped_or_saved(run_dir)


@examples(40)
@given(JSON_TEXT | st.binary(max_size=40))
@example("[" * 100_000)  # RecursionError
@example("9" * 5000)
@example('{"sha256": [[1, 2]], "step": 1, "manifest_sha256": ""}')
def test_any_manifest_is_skipped(fresh, content: str | bytes) -> None:
    run_dir = fresh()
    (run_dir / NEWEST / MANIFEST).write_bytes(
        content if isinstance(content, bytes) else content.encode("utf8", "replace")
    )
    check_skipped_or_saved(run_dir)


@examples(40)
@given(st.sampled_from([*FILES, "."]), st.sampled_from(NODES))
@example(MANIFEST, "pipe")  # waited for a writer, for ever
@example(MODEL_FILE, "pipe")
@example(".", "pipe")
@example(MANIFEST, "sparse")
def test_what_is_no_file_is_skipped(fresh, name: str, node: str) -> None:
    run_dir = fresh()
    path = run_dir / NEWEST / name
    replace(path, node)
    if os.path.lexists(path):
        check_skipped_or_saved(run_dir)
    else:
        assert is_saved(resume(run_dir).start)


@examples(80)
@given(
    st.sampled_from(
        [
            "step",
            "recipe_id",
            "tokens",
            "sha256",
            "eval_loss",
            "workers",
            "further",
            MODEL_FILE,
            OPTIMIZER_FILE,
        ]
    ),
    VALUES
    | st.sampled_from(
        [..., float("inf"), True, "8", 8.0, "a\nb", {"\0": ""}, {"../x": ""}, {"\ud800": ""}, {"": ""}]
    ),
)
@example("step", float("inf"))  # OverflowError
@example("step", True)
@example("step", -8)
@example("tokens", "many")  # a str as a count, at the first step
@example("tokens", None)
@example("tokens", -1)
@example("recipe_id", "a\nb")  # two lines
@example("sha256", {"a\0b": ""})  # ValueError: embedded null byte
@example("sha256", {"\ud800": ""})
def test_a_manifest_edited_and_signed_is_skipped_or_sound(fresh, key: str, value: object) -> None:
    run_dir = fresh()
    path = run_dir / NEWEST / MANIFEST
    manifest = json.loads(path.read_text())
    table = manifest["sha256"] if key in FILES else manifest
    if value is ...:
        table.pop(key, None)
    else:
        table[key] = value
    try:
        path.write_text(json.dumps(manifest))
        sign(run_dir / NEWEST)
    except ValueError:  # an integer that Python writes to no file
        return
    check_signed(run_dir)


TENSORS = sorted(SAVED[8].parameters) + sorted(SAVED[8].buffers)


@examples(60)
@given(
    st.sampled_from([MODEL_FILE, OPTIMIZER_FILE]),
    st.integers(0, 10**6),
    st.sampled_from(["missing", "renamed", "surplus", "shape", "dtype", "integer", "scalar", "empty", "all"]),
)
@example(MODEL_FILE, 0, "missing")  # KeyError in restore
@example(OPTIMIZER_FILE, 0, "surplus")
@example(MODEL_FILE, 0, "shape")
@example(MODEL_FILE, 0, "dtype")
def test_another_models_tensors_are_skipped_and_named(fresh, file: str, number: int, change: str) -> None:
    run_dir = fresh()
    state = SAVED[8]
    arrays = {**state.parameters, **state.buffers}
    if file == OPTIMIZER_FILE:
        arrays = {
            f"{moment}.{name}": array
            for moment, each in state.moments.items()
            for name, array in each.items()
        }
    name = sorted(arrays)[number % len(arrays)]
    match change:
        case "missing":
            del arrays[name]
        case "renamed":
            arrays[f"{name}.old"] = arrays.pop(name)
        case "surplus":
            name = f"{name}x"
            arrays[name] = np.zeros(3, np.float32)
        case "shape":
            arrays[name] = np.zeros((*arrays[name].shape, 2), np.float32)
        case "dtype":
            arrays[name] = arrays[name].astype(np.float64)
        case "integer":
            arrays[name] = arrays[name].astype(np.int8)
        case "scalar":
            arrays[name] = np.array(1.0, np.float32)
        case "empty":
            arrays[name] = np.zeros(0, np.float32)
        case "all":
            name, arrays = "", {}
    save_file(arrays, run_dir / NEWEST / file)
    sign(run_dir / NEWEST)
    run = check_signed(run_dir)
    assert run.start.step == 4
    assert any(name.removeprefix("exp_avg.").removeprefix("exp_avg_sq.") in note for note in run.notes), (
        run.notes
    )


HEADERS = st.sampled_from(
    [b"F64", b"BF16", b"BOOL", b"F8_E4M3", b"U64", b"99999999999999999999", b"[", b"]", b"-1", b"\0"]
)


@examples(60)
@given(st.sampled_from([MODEL_FILE, OPTIMIZER_FILE]), st.data())
def test_a_header_damaged_and_signed_is_skipped_or_sound(fresh, name: str, data: st.DataObject) -> None:
    run_dir = fresh()
    path = run_dir / NEWEST / name
    content = path.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    header = data.draw(damaged(content[:length], HEADERS | st.binary(max_size=3)))
    path.write_bytes(header + content[length:])
    sign(run_dir / NEWEST)
    check_signed(run_dir)


@examples(40)
@given(
    st.text(alphabet="0123456789²٣-. a", min_size=1, max_size=12).filter(
        lambda text: text not in (".", "..")
    ),
    SCALARS,
)
@example("²", None)  # ValueError: int() of what isdigit() takes for a digit
@example("٣" * 8, None)
@example("9", None)
@example("000000000012", None)
def test_other_names_are_no_checkpoints(fresh, name: str, content: object) -> None:
    run_dir = fresh()
    path = run_dir / "checkpoints" / f"step-{name}"
    if not path.exists():
        path.mkdir()
        (path / MANIFEST).write_text(as_json(content)[:50])
    assert is_saved(resume(run_dir).start)


@pytest.mark.parametrize("node", NODES)
def test_no_folder_of_checkpoints_is_a_fresh_start_or_a_line(fresh, node: str) -> None:
    run_dir = fresh()
    replace(run_dir / "checkpoints", node)
    try:
        run = resume(run_dir)
    except ValueError as error:
        assert is_one_line(error)
    else:
        assert run.start.step == 0
        assert run.notes
