import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.sources import SOURCE_NAMES, open_source

IMAGES = {"image_size": 16, "num_classes": 10}
TOKENS = {"context": 8, "vocabulary": 256}


@pytest.fixture
def paths(tmp_path):
    for split in ("train", "val"):
        for number in range(10):
            (tmp_path / "images" / split / f"class_{number}").mkdir(parents=True)
            Image.new("RGB", (20, 20)).save(tmp_path / "images" / split / f"class_{number}" / "a.jpg")
    (tmp_path / "text").write_bytes(bytes(range(200)))
    (tmp_path / "tokens").mkdir()
    for name in ("train.bin", "val.bin"):
        np.arange(200, dtype="<u2").tofile(tmp_path / "tokens" / name)
    return {name: str(tmp_path / name) for name in ("images", "text", "tokens")}


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("digits", IMAGES),
        ("images", IMAGES),
        ("synthetic", IMAGES),
        ("stdlib", TOKENS),
        ("text", TOKENS),
        ("tokens", TOKENS),
        ("synthetic", TOKENS),
    ],
)
def test_every_source_keeps_the_contract(name, sizes, split, paths):
    source = open_source(name, split=split, path=paths.get(name), **sizes)
    ids = np.array([0, source.num_samples - 1, 0])
    batch = source.batch(ids, np.zeros(3, np.int64))
    if "context" in sizes:
        assert batch["inputs"].shape == batch["targets"].shape == (3, 8)
        assert batch["inputs"].dtype == np.int32
    else:
        assert batch["inputs"].shape == (3, 16, 16, 3)
        assert batch["targets"].shape == (3,)
        assert batch["inputs"].dtype == np.uint8
    assert batch["targets"].dtype == np.int32
    assert batch["replaced"] == 0
    assert source.target_count(ids) == (batch["targets"] != -1).sum()
    assert len(source.fingerprint) == 64
    assert source.resident == (name == "synthetic")


def test_every_name_is_tested():
    marks = test_every_source_keeps_the_contract.pytestmark
    assert {name for mark in marks if "name" in mark.args[0] for name, _ in mark.args[1]} == set(SOURCE_NAMES)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("imagenet", IMAGES, r"^data\.source: found 'imagenet', expected one of: digits, stdlib, "),
        ("digits", TOKENS, r"^model\.image_size: found None, but data\.source = 'digits' needs at least 1"),
        ("stdlib", IMAGES, r"^model\.context: found None, but data\.source = 'stdlib' needs"),
        ("text", TOKENS, r"^data\.path: missing; data\.source = 'text' needs it"),
        ("tokens", TOKENS, r"^data\.path: missing; "),
        ("images", IMAGES, r"^data\.path: missing; "),
        ("synthetic", {}, r"^model\.image_size: found None"),
    ],
)
def test_what_does_not_fit_names_its_key(name, arguments, message):
    with pytest.raises(DataError, match=message):
        open_source(name, split="train", **arguments)


def test_an_unknown_split_is_refused():
    with pytest.raises(DataError, match=r"^split: found 'val', expected train or validation$"):
        open_source("digits", split="val", **IMAGES)


def test_only_what_is_needed_is_imported():
    code = (
        "import sys; from data.sources import open_source; from data.pipeline import train_batches;"
        "open_source('stdlib', split='train', context=8, vocabulary=256);"
        "print([name for name in ('grain', 'PIL', 'sklearn', 'torch', 'tensorflow', 'data.digits')"
        " if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
