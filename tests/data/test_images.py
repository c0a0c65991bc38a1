import pickle

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.images import ImageFolder

COLORS = {"ant": (250, 10, 10), "bee": (10, 250, 10), "cow": (10, 10, 250)}


@pytest.fixture
def folder(tmp_path):
    """Six images of each of three classes in train/, two in val/, each of the colour of its class."""
    for split, count in (("train", 6), ("val", 2)):
        for name, color in COLORS.items():
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (40, 30), color).save(tmp_path / split / name / f"{number}.JPEG")
    return tmp_path


def opened(folder, split="train", skip_corrupt=False, num_classes=3, seed=0):
    return ImageFolder(str(folder), split, 16, num_classes, seed, skip_corrupt)


def batch_of(source, *ids, epoch=0):
    return source.batch(np.array(ids), np.full(len(ids), epoch))


def test_labels_are_the_classes_in_order_and_images_are_theirs(folder):
    for split, count in (("train", 6), ("validation", 2)):
        source = opened(folder, split)
        assert source.num_samples == 3 * count
        batch = batch_of(source, *range(source.num_samples))
        assert batch["inputs"].shape == (3 * count, 16, 16, 3)
        assert batch["inputs"].dtype == np.uint8
        assert batch["targets"].dtype == np.int32
        assert batch["targets"].tolist() == sorted([0, 1, 2] * count)
        np.testing.assert_array_equal(batch["inputs"].mean((1, 2)).argmax(1), batch["targets"])
        assert batch["replaced"] == 0
        assert source.target_count(np.arange(5)) == 5


def test_a_class_missing_in_val_keeps_its_number(folder):
    for file in (folder / "val" / "bee").iterdir():
        file.unlink()
    (folder / "val" / "bee").rmdir()
    assert batch_of(opened(folder, "validation"), 0, 1, 2, 3)["targets"].tolist() == [0, 0, 2, 2]


def test_augmentation_is_keyed_by_seed_epoch_and_sample(folder):
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "train" / "ant" / "2.JPEG")
    source = opened(folder)
    image = batch_of(source, 2)["inputs"][0]
    again = batch_of(pickle.loads(pickle.dumps(source)), 7, 2, 4)["inputs"][
        1
    ]  # other process, other neighbours
    np.testing.assert_array_equal(image, again)
    assert (batch_of(source, 2, epoch=1)["inputs"][0] != image).any()
    assert (batch_of(opened(folder, seed=1), 2)["inputs"][0] != image).any()


def test_a_folder_of_every_kind_of_image(folder):
    """As ImageNet's: a few of its files are CMYK, PNG by another name, or damaged in a way that can be mended."""
    ants = folder / "train" / "ant"
    red = Image.new("RGB", (40, 30), COLORS["ant"])
    red.convert("CMYK").save(ants / "0.JPEG")
    red.save(ants / "1.JPEG", "PNG")
    red.save(ants / "2.JPEG", progressive=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    red.save(ants / "3.JPEG", exif=exif)
    ants.joinpath("4.JPEG").write_bytes(ants.joinpath("5.JPEG").read_bytes() + b"more")
    Image.new("L", (40, 30), 120).save(ants / "5.JPEG")
    batch = batch_of(opened(folder), *range(6))
    assert batch["replaced"] == 0
    means = batch["inputs"].mean((1, 2))
    np.testing.assert_allclose(means[:5], np.tile(COLORS["ant"], (5, 1)), atol=3)
    np.testing.assert_allclose(means[5], 120, atol=2)


DAMAGES = {
    "no image": lambda contents: b"<html>not found</html>",
    "empty": lambda contents: b"",
    "cut short": lambda contents: contents[: len(contents) // 2],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_corrupt_image_is_an_error_that_names_the_file(folder, damage):
    path = folder / "train" / "bee" / "0.JPEG"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(DataError, match=rf"^{path}: corrupt image \(.*data\.skip_corrupt=true$") as caught:
        batch_of(opened(folder), 5, 6)
    assert "\n" not in str(caught.value)
    assert " object at 0x" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # from a loader process


@pytest.mark.parametrize("damage", DAMAGES)
def test_or_the_next_good_one_stands_in_for_it_and_is_counted(folder, damage):
    for path in (folder / "train" / "ant" / "5.JPEG", folder / "train" / "bee" / "0.JPEG"):
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    source = opened(folder, skip_corrupt=True)
    batch = batch_of(source, 4, 5, 7)
    assert batch["replaced"] == 1
    assert batch["targets"].tolist() == [0, 1, 1]  # 5 and 6 are corrupt: 7 stands in
    np.testing.assert_array_equal(batch["inputs"][1], batch["inputs"][2])
    other_rank = batch_of(source, 17, 5)
    np.testing.assert_array_equal(other_rank["inputs"][1], batch["inputs"][1])


def test_the_last_image_is_replaced_by_the_first(folder):
    (folder / "train" / "cow" / "5.JPEG").write_bytes(b"")
    assert batch_of(opened(folder, skip_corrupt=True), 17)["targets"].tolist() == [0]


def test_in_validation_a_corrupt_image_does_not_count(folder):
    (folder / "val" / "bee" / "0.JPEG").write_bytes(b"")
    batch = batch_of(opened(folder, "validation", skip_corrupt=True), *range(6))
    assert batch["targets"].tolist() == [0, 0, -1, 1, 2, 2]
    assert batch["replaced"] == 1


def test_nothing_but_corrupt_images_is_an_error_all_the_same(folder):
    for path in folder.glob("train/*/*"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"/0\.JPEG: this and the following images are all corrupt"):
        batch_of(opened(folder, skip_corrupt=True), 0)


def test_an_image_that_went_away_is_never_skipped(folder):
    source = opened(folder, skip_corrupt=True)
    path = folder / "train" / "ant" / "3.JPEG"
    path.unlink()
    with pytest.raises(DataError, match=rf"^{path}: No such file or directory; check data\.path$"):
        batch_of(source, 3)


def test_names_that_are_not_utf_8_are_found(folder):
    import os

    Image.new("RGB", (9, 9)).save(folder / "train" / "ant" / os.fsdecode(b"\xff\xfe.jpg"))
    source = opened(folder)
    assert source.num_samples == 19
    batch_of(source, *range(19))
    assert len(source.fingerprint) == 64


def test_the_fingerprint_follows_the_names(folder):
    before = opened(folder).fingerprint
    assert opened(folder).fingerprint == before
    (folder / "train" / "ant" / "0.JPEG").rename(folder / "train" / "ant" / "00.JPEG")
    assert opened(folder).fingerprint != before


def test_another_layout_is_one_line(folder, tmp_path):
    def opening(message, path, split="train", num_classes=3):
        with pytest.raises(DataError, match=message) as caught:
            opened(path, split, num_classes=num_classes)
        assert "\n" not in str(caught.value)

    layout = r"expected train/<class>/\*\.JPEG; check data\.path$"
    opening(rf"^{tmp_path}/nowhere/train: No such file or directory, {layout}", tmp_path / "nowhere")
    opening(rf"^{folder}/train/ant/train: No such file or directory, {layout}", folder / "train" / "ant")
    opening(rf"/0\.JPEG/train: Not a directory, {layout}", folder / "train" / "ant" / "0.JPEG")
    opening(
        r"^model\.num_classes: found 1000, expected 3, the number of folders in", folder, num_classes=1000
    )
    (folder / "val" / "dog").mkdir()
    opening(rf"^{folder}/val/dog: no such class in train/", folder, "validation")
    for file in folder.glob("train/*/*"):
        file.unlink()
    opening(rf"^{folder}/train: found no images, {layout}", folder)
    for name in COLORS:
        (folder / "train" / name).rmdir()
    opening(rf"^{folder}/train: found no class folders, {layout}", folder)
