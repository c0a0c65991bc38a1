"""Canonical checkpoints: safetensors beside a manifest of SHA-256 digests, published by an atomic rename.

The order of the system calls is what survives a kill -9 at any moment: write into a temporary directory,
fsync each file, then the directory, rename it, fsync its parent; delete old ones by renaming first.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from training.loss_scale import LossScale
from training.state import Arrays, State
from training.tensor_file import TYPES, Rest, reserve, size_bytes, write_tensors

MODEL_FILE, OPTIMIZER_FILE, MANIFEST = "model.safetensors", "optimizer.safetensors", "manifest.json"
GRADIENTS_FILE = "gradients.safetensors"
OWN_DIGEST = "manifest_sha256"
MANIFEST_LIMIT_BYTES = 2**20
"""Ours have less than a thousandth of it."""
SET_ASIDE = "set-aside-"


class CheckpointError(ValueError):
    """A directory that is not a whole checkpoint of this recipe; the message says which file and why."""


def save(
    folder: Path, state: State, *, recipe_id: str, extra: dict, keep: int, rest: Rest | None = None
) -> Path:
    """Write `folder/step-XXXXXXXX`; of its siblings leave the newest `keep` (at least one) and the best.

    `extra` goes into the manifest beside the step and the recipe id; the best has the least `eval_loss` there.
    rest: called now and then, as tensor_file.Rest says.
    Raises OSError where the disk refuses; then nothing of this checkpoint stays, and every older one does.
    """
    is_new = not folder.exists()
    folder.mkdir(exist_ok=True)  # not its parent: a run whose directory was removed is to end
    sweep(folder)
    final = folder / f"step-{state.step:08d}"
    temporary = folder / f".writing-{state.step:08d}"
    try:
        write_state(temporary, state, recipe_id=recipe_id, extra=extra, durable=True, rest=rest)
        if final.exists():
            _delete(final)
        os.rename(temporary, final)
    except Exception:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _fsync(folder)
    if is_new:
        _fsync(folder.parent)
    _prune(folder, keep)
    return final


def write_state(
    folder: Path, state: State, *, recipe_id: str, extra: dict, durable: bool, rest: Rest | None = None
) -> None:
    """Write one state's files and manifest into a new directory; `durable` waits for the disk. Raises OSError."""
    contents = _files(state)
    folder.mkdir(parents=True)
    for name, arrays in contents.items():  # all of them before the first byte: a full disk is known at once
        reserve(folder / name, size_bytes(arrays))
    digests = {
        name: write_tensors(folder / name, arrays, durable=durable, rest=rest)
        for name, arrays in contents.items()
    }
    manifest = {"step": state.step, "recipe_id": recipe_id, "sha256": digests, **extra}
    if state.loss_scale is not None:
        manifest["loss_scale"] = asdict(state.loss_scale)
    manifest[OWN_DIGEST] = _manifest_digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    if durable:
        _fsync(folder / MANIFEST)
        _fsync(folder)


def bytes_needed(state: State) -> int:
    """What `save` writes of this state, the manifest left out."""
    return sum(size_bytes(arrays) for arrays in _files(state).values())


def _files(state: State) -> dict[str, Arrays]:
    moments = {
        f"{moment}.{name}": array
        for moment, arrays in state.moments.items()
        for name, array in arrays.items()
    }
    contents: dict[str, Arrays] = {MODEL_FILE: {**state.parameters, **state.buffers}, OPTIMIZER_FILE: moments}
    if state.gradients is not None:
        contents[GRADIENTS_FILE] = state.gradients
    return contents


def load(folder: Path) -> tuple[State, dict]:
    """Read one checkpoint and its manifest, every digest checked. Raises CheckpointError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    manifest = _read_manifest(folder / MANIFEST)
    digests, step = manifest["sha256"], manifest["step"]
    if folder.name.startswith("step-") and folder.name != f"step-{step:08d}":
        raise CheckpointError(
            f"{folder / MANIFEST}: says step {step}, which is not what its directory is named"
        )
    contents = {}
    for name in dict.fromkeys((MODEL_FILE, OPTIMIZER_FILE, *digests)):
        if name not in (MODEL_FILE, OPTIMIZER_FILE, GRADIENTS_FILE):
            raise CheckpointError(f"{folder / MANIFEST}: names {name!r}, which is no file of a checkpoint")
        try:
            if not (folder / name).is_file():  # a pipe would be waited for
                raise CheckpointError(f"{folder / name}: cannot be read (there is no such file)")
            if _sha256(folder / name) != digests.get(name):
                raise CheckpointError(
                    f"{folder / name}: its SHA-256 is not the manifest's; the file is damaged"
                )
            contents[name] = _known(load_file(folder / name))
        except (OSError, SafetensorError, KeyError, TypeError) as error:
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
        LossScale(**manifest["loss_scale"]) if "loss_scale" in manifest else None,
    ), manifest


def _known(arrays: Arrays) -> Arrays:
    """The arrays, which are of a type that we write. Raises TypeError; more is readable once TensorFlow is imported."""
    for name, array in arrays.items():
        if array.dtype.name not in TYPES:
            raise TypeError(f"{name} is {array.dtype.name}, expected one of {', '.join(TYPES)}")
    return arrays


def _read_manifest(path: Path) -> dict:
    """The manifest without its own digest, which was checked. Raises CheckpointError."""
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ValueError("there is no such file")
        with path.open("rb") as file:
            text = file.read(MANIFEST_LIMIT_BYTES + 1)
        if len(text) > MANIFEST_LIMIT_BYTES:
            raise ValueError(f"longer than {MANIFEST_LIMIT_BYTES} bytes")
        manifest = json.loads(text)
        own_digest = manifest.pop(OWN_DIGEST)
        for key, count in (("step", manifest["step"]), ("tokens", manifest.get("tokens", 0))):
            if type(count) is not int or count < 0:
                raise ValueError(f"{key}: found no integer of 0 or more")
        if not isinstance(manifest["sha256"], dict):
            raise ValueError("sha256: found no table")
        actual_digest = _manifest_digest(manifest)
    except (AttributeError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a readable manifest ({error})") from error
    if own_digest != actual_digest:
        raise CheckpointError(f"{path}: its SHA-256 is not what it says; the file is damaged")
    return manifest


def load_latest(
    folder: Path, recipe_id: str, misfit: Callable[[State], str | None] = lambda state: None
) -> tuple[State | None, dict, list[str]]:
    """The newest whole checkpoint of this recipe, its manifest, and one line for each that was skipped.

    misfit: says what of a state is not as the recipe has it (state.misfit).
    """
    skipped = []
    for step in reversed(complete_steps(folder)):
        path = folder / f"step-{step:08d}"
        try:
            state, manifest = load(path)
        except CheckpointError as error:
            skipped.append(f"skipped checkpoint {error}")
            continue
        if manifest.get("recipe_id") != recipe_id:
            skipped.append(
                f"skipped checkpoint {path}: it belongs to recipe id {manifest.get('recipe_id')!r}"
            )
            continue
        if reason := misfit(state):
            skipped.append(f"skipped checkpoint {path}: {reason}")
            continue
        return state, manifest, skipped
    return None, {}, skipped


def complete_steps(folder: Path) -> list[int]:
    """The steps of the published checkpoints, ascending."""
    names = {path.name for path in folder.glob("step-*")}
    numbers = [name.removeprefix("step-") for name in names]
    # Names that we would not give are none of ours: step-9, or digits of another script.
    return sorted(int(n) for n in numbers if n.isdecimal() and f"step-{int(n):08d}" in names)


def set_aside(folder: Path, after: int) -> list[str]:
    """Rename the checkpoints of later steps than `after`, where a run goes on from; a note on each.

    They are damaged, of another recipe, or of a future that is not to be. Counted as the newest, they would push out
    whatever the run saves from now on.
    """
    notes = []
    for step in complete_steps(folder):
        if step > after:
            path = folder / f"step-{step:08d}"
            new = next(
                each
                for number in range(1, 10**6)
                if not os.path.lexists(
                    each := folder / f"{SET_ASIDE}{path.name}{f'-{number}' * (number > 1)}"
                )
            )
            os.rename(path, new)
            notes.append(f"checkpoint of step {step} set aside as {new}: the run goes on from step {after}")
    return notes


def sweep(folder: Path) -> None:
    """Remove what an interrupted save or deletion left behind; only while nobody writes."""
    for pattern in (".writing-*", ".deleting-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _prune(folder: Path, keep: int) -> None:
    steps = complete_steps(folder)
    if len(steps) > keep:
        ranked = [(loss, -step) for step in steps if (loss := _eval_loss(folder, step)) is not None]
        best = -min(ranked)[1] if ranked else None
        for step in steps[:-keep]:
            if step != best:
                _delete(folder / f"step-{step:08d}")


def _eval_loss(folder: Path, step: int) -> float | None:
    """The loss over the held-out data at that step, where there is a finite one to compare."""
    try:
        loss = _read_manifest(folder / f"step-{step:08d}" / MANIFEST).get("eval_loss")
    except CheckpointError:
        return None
    return loss if isinstance(loss, float) and math.isfinite(loss) else None


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
