"""Checkpoints that a disk, a copy or a person has changed: never loaded, each named, the one before goes on."""

import hashlib
import io
import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.runs import WORKERS, Started, assert_same, case, command, long_run, recipe_of
from training import checkpoint
from training.options import Options
from training.run import Run, open_run
from training.world import World

pytestmark = pytest.mark.timeout(300)
STEPS, EVERY = 12, 3
STOP = ("--stop-after", "9")
OFFSETS = 20
FILES = (checkpoint.MODEL_FILE, checkpoint.OPTIMIZER_FILE, checkpoint.MANIFEST)


def truncated(content: bytes, offset: int) -> bytes:
    return content[:offset]


def flipped(content: bytes, offset: int) -> bytes:
    return content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :]


def offsets(length: int) -> list[int]:
    """The first byte, the last, and what lies evenly between."""
    return [(length - 1) * number // (OFFSETS - 1) for number in range(OFFSETS)]


@pytest.fixture
def stopped(undisturbed, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a strategy's run that was stopped at step 9, with checkpoints of steps 6 and 9."""

    def copy(strategy: str) -> Path:
        run = undisturbed(*long_run(strategy, STEPS, EVERY), *())
        del run
        done = undisturbed(*with_stop(strategy))
        return Path(shutil.copytree(done.run_dir, tmp_path / "run"))

    return copy


def with_stop(strategy: str) -> tuple[str, ...]:
    name, kind, *rest = long_run(strategy, STEPS, EVERY)
    return (name, kind, *STOP, *rest)


def opened(run_dir: Path) -> Run:
    """What each rank does first of all when it is told to resume."""
    return open_run(Options(run_dir=run_dir, resume=True), "torch-single", World(0, 0, 1, 1, (0,), "direct"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", [truncated, flipped])
def test_a_file_that_is_damaged_anywhere_is_named_and_never_loaded(
    change: Callable[[bytes, int], bytes], name: str, stopped
) -> None:
    run_dir = stopped("torch-single")
    path = run_dir / "checkpoints" / "step-00000009" / name
    whole = path.read_bytes()
    for offset in offsets(len(whole)):
        path.write_bytes(change(whole, offset))
        run = opened(run_dir)
        assert run.start is not None
        assert run.start.step == 6, offset
        (note,) = run.notes
        assert str(path) in note, offset
    path.write_bytes(whole)
    run = opened(run_dir)
    assert (run.start.step, run.notes) == (9, [])


class Bomb:
    """Unpickling it makes the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def as_pickle(marker: Path) -> bytes:
    return pickle.dumps(Bomb(marker))


def as_torch_saves(marker: Path) -> bytes:
    """The form of a .pt file: a ZIP archive with a pickle in it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", as_pickle(marker))
        archive.writestr("archive/version", "3\n")
    return content.getvalue()


def sign_again(folder: Path) -> None:
    """Make the manifest agree with the files, as one who means harm would."""
    path = folder / checkpoint.MANIFEST
    manifest = json.loads(path.read_text())
    manifest.pop(checkpoint.OWN_DIGEST)
    for name in manifest["sha256"]:
        manifest["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    text = json.dumps(manifest, sort_keys=True)
    manifest[checkpoint.OWN_DIGEST] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(manifest))


def cut(newest: Path, tmp_path: Path) -> None:
    path = newest / checkpoint.MODEL_FILE
    path.write_bytes(truncated(path.read_bytes(), 1000))


def flip(newest: Path, tmp_path: Path) -> None:
    path = newest / checkpoint.OPTIMIZER_FILE
    path.write_bytes(flipped(path.read_bytes(), 5000))


def lose_manifest(newest: Path, tmp_path: Path) -> None:
    (newest / checkpoint.MANIFEST).unlink()


def lose_a_file(newest: Path, tmp_path: Path) -> None:
    (newest / checkpoint.OPTIMIZER_FILE).unlink()


def plant_a_pickle(newest: Path, tmp_path: Path) -> None:
    (newest / checkpoint.MODEL_FILE).write_bytes(as_pickle(tmp_path / "exploded"))
    sign_again(newest)


def plant_a_pt_file(newest: Path, tmp_path: Path) -> None:
    (newest / checkpoint.OPTIMIZER_FILE).write_bytes(as_torch_saves(tmp_path / "exploded"))
    sign_again(newest)


DAMAGES = (cut, flip, lose_manifest, lose_a_file, plant_a_pickle, plant_a_pt_file)
QUICK = {"torch-ddp": plant_a_pickle, "torch-single": lose_manifest}


@pytest.mark.parametrize(
    ("strategy", "damage"),
    [
        case(name, damage, quick=QUICK.get(name) is damage, name=f"{name}-{damage.__name__}")
        for number, name in enumerate(WORKERS)
        for damage in DAMAGES
        if QUICK.get(name) is damage or (number + DAMAGES.index(damage)) % 3 == 0
    ],
)
def test_a_run_goes_on_from_the_checkpoint_before(
    strategy: str, damage: Callable[[Path, Path], None], stopped, start, undisturbed, tmp_path: Path
) -> None:
    newest = stopped(strategy) / "checkpoints" / "step-00000009"
    damage(newest, tmp_path)
    run = start("run", *command(strategy, "--resume"))
    assert run.code() == 0, run.errors
    assert run.said.count("skipped checkpoint") == 1, run.said
    assert str(newest) in run.said
    assert not (tmp_path / "exploded").exists()
    assert_same(run, undisturbed(*long_run(strategy, STEPS, EVERY)))
    discarded = run.run_dir / "metrics.discarded.jsonl"
    assert [json.loads(line)["step"] for line in discarded.read_text().splitlines()] == [7, 8, 9]


@pytest.mark.parametrize("content", [as_pickle, as_torch_saves])
def test_the_bomb_is_one(content: Callable[[Path], bytes], tmp_path: Path) -> None:
    """Loaded as a pickle it would have gone off."""
    marker = tmp_path / "exploded"
    program = "import pickle, sys, zipfile; pickle.loads(sys.stdin.buffer.read())"
    if content is as_torch_saves:
        program = (
            "import io, pickle, sys, zipfile; "
            "pickle.loads(zipfile.ZipFile(io.BytesIO(sys.stdin.buffer.read())).read('archive/data.pkl'))"
        )
    subprocess.run([sys.executable, "-c", program], input=content(marker), check=True)
    assert marker.exists()


def test_a_checkpoint_of_another_recipe_is_not_loaded(stopped, start, undisturbed) -> None:
    """Copied in from another run, whole and newer than all that are there."""
    run_dir = stopped("torch-single")
    other = undisturbed(
        *command("torch-single", *recipe_of("torch-single"), "--stop-after", "5", "--set", "seed=77")
    )
    foreign = run_dir / "checkpoints" / "step-00000011"
    shutil.copytree(other.run_dir / "checkpoints" / "step-00000005", foreign)
    manifest = json.loads((foreign / checkpoint.MANIFEST).read_text())
    (foreign / checkpoint.MANIFEST).write_text(json.dumps(manifest | {"step": 11}))
    sign_again(foreign)
    run = start("run", *command("torch-single", "--resume"))
    assert run.code() == 0, run.errors
    assert f"skipped checkpoint {foreign}: it belongs to recipe id" in run.said
    assert manifest["recipe_id"] in run.said
    assert_same(run, undisturbed(*long_run("torch-single", STEPS, EVERY)))


def contents(run: Started) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in (run.run_dir / "checkpoints").rglob("*") if path.is_file()
    }
