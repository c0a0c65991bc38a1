from pathlib import Path

import numpy as np
import pytest

from benchmarks import input_contestant, race_input
from benchmarks.input_contestant import (
    CONTESTANTS,
    CONTEXT,
    IMAGE_BATCH,
    IMAGE_SIZE,
    NEEDED,
    TOKEN_BATCH,
)
from benchmarks.race_input import InputOptions, make_photographs, make_tokens, race, rows


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """Both kinds of input, in small."""
    monkeypatch.setattr(race_input, "PHOTOGRAPHS", 4)
    monkeypatch.setattr(race_input, "NUM_TOKENS", 20_000)
    assert make_photographs(tmp_path).startswith("4 JPEG files of 500 x 375 pixels, ")
    make_tokens(tmp_path)
    return tmp_path


def test_the_photographs_are_of_imagenets_size(folder: Path) -> None:
    sizes = [path.stat().st_size for path in folder.glob("train/*/*.jpg")]
    assert 80_000 < np.mean(sizes) < 130_000


@pytest.mark.parametrize(
    "name", sorted({*CONTESTANTS["images"]} - {*NEEDED, "through a loader process"} | {"ours"})
)
def test_contestants_make_the_same_kind_of_images(folder: Path, name: str) -> None:
    batch = next(CONTESTANTS["images"][name](folder))
    if name == "simplejpeg, decoding alone":
        assert batch.size == 500 * 375 * 3
        return
    images = batch["inputs"][0] if name == "ours" else batch
    assert (images.shape, images.dtype) == ((IMAGE_BATCH, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    assert images.std() > 10


@pytest.mark.parametrize("name", sorted(set(CONTESTANTS["tokens"]) - {"through a loader process"}))
def test_contestants_make_the_same_kind_of_tokens(folder: Path, name: str) -> None:
    batch = next(CONTESTANTS["tokens"][name](folder))
    inputs, targets = (batch["inputs"][0], batch["targets"][0]) if name == "ours" else batch
    assert inputs.shape == targets.shape == (TOKEN_BATCH, CONTEXT)
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])


def test_tf_datas_images(folder: Path) -> None:
    batch = next(CONTESTANTS["images"]["tf.data"](folder))
    assert (batch.shape, batch.dtype) == ((IMAGE_BATCH, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)


def test_a_race_asks_every_contestant_for_every_window(folder: Path, monkeypatch) -> None:
    chosen = {name: CONTESTANTS["tokens"][name] for name in ("ours", "copying as many bytes")}
    monkeypatch.setitem(race_input.CONTESTANTS, "tokens", chosen)
    rates = race("tokens", folder, InputOptions(rounds=2, windows=3))
    assert {name: [len(windows) for windows in of_name] for name, of_name in rates.items()} == {
        "ours": [3, 3],
        "copying as many bytes": [3, 3],
    }
    assert all(rate > 0 for of_name in rates.values() for windows in of_name for rate in windows)
    (line,) = rows("tokens", {"ours": [[3e6, 3e6]], "theirs": [[2e6, 2e6]]})
    assert line == "| theirs | 3 million tokens/s | 2 million tokens/s | 1.500 | 1.500 to 1.500 |  |  |"


def test_the_time_of_loader_processes_is_counted(monkeypatch) -> None:
    class Child:
        def cpu_times(self):
            return (2.0, 1.0, 0.0, 0.0)

    class Process:
        def children(self, recursive: bool):
            return [Child(), Child()] if recursive else []

    monkeypatch.setattr(input_contestant.psutil, "Process", Process)
    monkeypatch.setattr(input_contestant.time, "process_time", lambda: 4.0)
    assert input_contestant.cpu_time_s() == 10
