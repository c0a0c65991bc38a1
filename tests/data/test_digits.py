import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import data.digits
from data.digits import Digits
from data.errors import DataError


def test_the_digits_are_scikit_learns_held_out_every_fifth():
    from sklearn.datasets import load_digits

    theirs = load_digits()
    is_held_out = np.arange(1797) % 5 == 4
    for split, chosen in (("train", ~is_held_out), ("validation", is_held_out)):
        ours = Digits(split, image_size=8, num_classes=10)
        assert ours.num_samples == chosen.sum()
        ids = np.arange(ours.num_samples)
        batch = ours.batch(ids, np.zeros_like(ids))
        np.testing.assert_array_equal(batch["targets"], theirs.target[chosen])
        expected = np.rint(theirs.images[chosen] * 255 / 16)
        np.testing.assert_array_equal(batch["inputs"], np.repeat(expected[..., None], 3, axis=-1))
        assert ours.target_count(ids) == ours.num_samples


def test_upsampling_is_bilinear_with_centres_aligned():
    small = Digits("validation", image_size=8, num_classes=10)
    large = Digits("validation", image_size=32, num_classes=10)
    ids, epochs = np.arange(20), np.zeros(20, int)
    ours = large.batch(ids, epochs)["inputs"]
    assert ours.shape == (20, 32, 32, 3)
    assert ours.dtype == np.uint8
    for mine, pixels in zip(ours, small.batch(ids, epochs)["inputs"], strict=True):
        grey = Image.fromarray(pixels[..., 0].astype(np.float32)).resize((32, 32), Image.Resampling.BILINEAR)
        # Pillow starts from values that were rounded to 8 bits already.
        assert abs(mine - np.asarray(grey)[..., None]).max() <= 1


def test_scikit_learn_is_not_imported():
    code = (
        "import sys; from data.digits import Digits; Digits('train', 32, 10); print('sklearn' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False\n"


def test_the_fingerprint_is_of_the_split():
    splits = [Digits(split, 8, 10).fingerprint for split in ("train", "validation", "train")]
    assert splits[0] == splits[2] != splits[1]
    assert len(splits[0]) == 64


def test_fewer_than_ten_classes_are_refused():
    with pytest.raises(DataError, match=r"^model\.num_classes: found 9, but digits have 10"):
        Digits("train", 32, 9)


def test_without_scikit_learn_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(data.digits, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"^data\.source: digits needs .* pip install scikit-learn$"):
        Digits("train", 32, 10)


def test_a_damaged_file_is_named(monkeypatch, tmp_path):
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    (tmp_path / "datasets" / "data").mkdir(parents=True)
    path = tmp_path / "datasets" / "data" / "digits.csv.gz"
    path.write_bytes(b"not gzip")
    monkeypatch.setattr(data.digits, "find_spec", lambda name: Spec)
    with pytest.raises(DataError, match=rf"^{path}: cannot be read"):
        Digits("train", 32, 10)
