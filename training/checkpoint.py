"""Canonical checkpoints: safetensors beside a manifest of SHA-256 digests, published by an atomic rename.

The order of the system calls is what survives a kill -9 at any moment: write into a temporary directory,
fsync each file, then the directory, rename it, fsync its parent; delete old ones by renaming first.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

from training.state import Arrays, State

MODEL_FILE, OPTIMIZER_FILE, MANIFEST = "model.safetensors", "optimizer.safetensors", "manifest.json"
GRADIENTS_FILE = "gradients.safetensors"
OWN_DIGEST = "manifest_sha256"


class CheckpointError(ValueError):
    """A directory that is not a whole checkpoint of this recipe; the message says which file and why."""


def save(folder: Path, state: State, *, recipe_id: str, extra: dict, keep: int) -> Path:
    """Write `folder/step-XXXXXXXX` and leave the newest `keep` (at least one) of its siblings.

    `extra` goes into the manifest beside the step and the recipe id. Raises OSError where the disk refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    final = folder / f"step-{state.step:08d}"
    temporary = folder / f".writing-{state.step:08d}"
    write_state(temporary, state, recipe_id=recipe_id, extra=extra, durable=True)
    if final.exists():
        _delete(final)
    os.rename(temporary, final)
    _fsync(folder)
    for old in complete_steps(folder)[:-keep]:
        _delete(folder / f"step-{old:08d}")
    return final


def write_state(folder: Path, state: State, *, recipe_id: str, extra: dict, durable: bool) -> None:
    """Write one state's files and manifest into a new directory; `durable` waits for the disk."""
    from safetensors.numpy import save_file  # imported late: only a run that saves pays for it

    folder.mkdir(parents=True)
    moments = {
        f"{moment}.{name}": array
        for moment, arrays in state.moments.items()
        for name, array in arrays.items()
    }
    contents: dict[str, Arrays] = {MODEL_FILE: {**state.parameters, **state.buffers}, OPTIMIZER_FILE: moments}
    if state.gradients is not None:
        contents[GRADIENTS_FILE] = state.gradients
    digests = {}
    for name, arrays in contents.items():
        save_file(arrays, folder / name)
        digests[name] = _sha256(folder / name)
        if durable:
            _fsync(folder / name)
    manifest = {"step": state.step, "recipe_id": recipe_id, "sha256": digests, **extra}
    manifest[OWN_DIGEST] = _manifest_digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    if durable:
        _fsync(folder / MANIFEST)
        _fsync(folder)


def load(folder: Path) -> tuple[State, dict]:
    """Read one checkpoint and its manifest, every digest checked. Raises CheckpointError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        own_digest = manifest.pop(OWN_DIGEST)
        digests, step = dict(manifest["sha256"]), int(manifest["step"])
    except (AttributeError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / MANIFEST}: not a readable manifest ({error})") from error
    if own_digest != _manifest_digest(manifest):
        raise CheckpointError(f"{folder / MANIFEST}: its SHA-256 is not what it says; the file is damaged")
    contents = {}
    for name in {MODEL_FILE, OPTIMIZER_FILE, *digests}:
        if Path(name).name != name:
            raise CheckpointError(f"{folder / MANIFEST}: names {name!r}, which is not a file beside it")
        try:
            if _sha256(folder / name) != digests.get(name):
                raise CheckpointError(
                    f"{folder / name}: its SHA-256 is not the manifest's; the file is damaged"
                )
            contents[name] = load_file(folder / name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{folder / name}: cannot be read ({error})") from error
    model = contents[MODEL_FILE]
    moments: dict[str, Arrays] = {}
    for key, array in contents[OPTIMIZER_FILE].items():
        moment, _, name = key.partition(".")
        moments.setdefault(moment, {})[name] = array
    is_buffer = {name: name.endswith(("running_mean", "running_var")) for name in model}
    return State(
        step,
        {name: array for name, array in model.items() if not is_buffer[name]},
        {name: array for name, array in model.items() if is_buffer[name]},
        moments,
        contents.get(GRADIENTS_FILE),
    ), manifest


def load_latest(folder: Path, recipe_id: str) -> tuple[State | None, dict, list[str]]:
    """The newest whole checkpoint of this recipe, its manifest, and one line for each that was skipped."""
    skipped = []
    for step in reversed(complete_steps(folder)):
        path = folder / f"step-{step:08d}"
        try:
            state, manifest = load(path)
        except CheckpointError as error:
            skipped.append(f"skipped checkpoint {error}")
            continue
        if manifest.get("recipe_id") != recipe_id:
            skipped.append(f"skipped checkpoint {path}: it belongs to recipe id {manifest.get('recipe_id')}")
            continue
        return state, manifest, skipped
    return None, {}, skipped


def complete_steps(folder: Path) -> list[int]:
    """The steps of the published checkpoints, ascending."""
    names = [path.name.removeprefix("step-") for path in folder.glob("step-*")]
    return sorted(int(name) for name in names if name.isdigit())


def sweep(folder: Path) -> None:
    """Remove what an interrupted save or deletion left behind."""
    for pattern in (".writing-*", ".deleting-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _manifest_digest(manifest: dict) -> str:
    """Over all of the manifest but itself: a flipped bit in a step is as bad as one in a weight."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _delete(path: Path) -> None:
    doomed = path.with_name(f".deleting-{path.name}")
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
