import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.augment import _random_box, center_crop, random_resized_crop
from data.image_file import ImageFile


def gradient(width: int, height: int, stored_as: str = "PNG", mode: str = "RGB") -> ImageFile:
    """Red tells the column, green the row: smooth, so that a crop tells where it was taken."""
    columns = np.broadcast_to(np.linspace(0, 255, width), (height, width))
    rows = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    pixels = np.stack([columns, rows, np.full((height, width), 80)], -1).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, stored_as, quality=95)
    return ImageFile(stream.getvalue())


@settings(deadline=None, max_examples=40)
@given(width=st.integers(1, 90), height=st.integers(1, 90), sample=st.integers(0, 10**7))
def test_any_image_becomes_a_square_of_the_size(width, height, sample):
    image = gradient(width, height)
    assert random_resized_crop(image, 16, (0, 0, sample)).size == (16, 16)
    cropped = center_crop(image, 16)
    assert (cropped.size, cropped.mode) == ((16, 16), "RGB")


@given(width=st.integers(1, 500), height=st.integers(1, 500), seed=st.integers(0, 2**32))
def test_the_box_lies_in_the_image(width, height, seed):
    left, top, box_width, box_height = _random_box(width, height, np.random.default_rng(seed))
    assert 0 <= left <= left + box_width <= width
    assert 0 <= top <= top + box_height <= height
    assert min(box_width, box_height) >= 1


def test_area_and_aspect_are_those_of_the_published_crop():
    chance = np.random.default_rng(0)
    boxes = np.array([_random_box(1000, 1000, chance) for _ in range(4000)])
    area = boxes[:, 2] * boxes[:, 3] / 1e6
    aspect = boxes[:, 2] / boxes[:, 3]
    assert 0.079 < area.min() < 0.1 < 0.9 < area.max() <= 1
    assert 0.74 < aspect.min() < 0.76 < 1.31 < aspect.max() < 1.34
    # Uniform in the area (but for large boxes that do not fit) and even-handed between wide and tall.
    assert 0.42 < area.mean() < 0.56
    assert abs(np.log(aspect).mean()) < 0.01
    assert boxes[:, 0].min() == boxes[:, 1].min() == 0


@pytest.mark.parametrize(("width", "height"), [(1000, 10), (10, 1000)])
def test_too_long_an_image_is_cropped_in_the_middle(width, height):
    left, top, box_width, box_height = _random_box(width, height, np.random.default_rng(0))
    assert box_width / box_height == pytest.approx(4 / 3 if width > height else 3 / 4, rel=0.1)
    assert abs(2 * left + box_width - width) <= 1
    assert abs(2 * top + box_height - height) <= 1


def test_the_key_alone_decides():
    crops = {}
    for key in [(seed, epoch, sample) for seed in (0, 1) for epoch in (0, 1) for sample in (0, 1)]:
        first, second = (random_resized_crop(gradient(64, 48), 16, key) for _ in range(2))
        assert first.tobytes() == second.tobytes()
        crops[key] = first.tobytes()
    assert len(set(crops.values())) == 8
    random_resized_crop(gradient(64, 48), 16, (-1, 0, 0))  # any seed of a recipe will do


def test_half_of_the_crops_are_flipped():
    crops = [
        np.asarray(random_resized_crop(gradient(64, 64), 8, (0, 0, sample)), int) for sample in range(400)
    ]
    flipped = np.mean([crop[:, 0, 0].mean() > crop[:, -1, 0].mean() for crop in crops])
    assert 0.4 < flipped < 0.6
    assert all(crop[0, :, 1].mean() < crop[-1, :, 1].mean() for crop in crops)  # never upside down


def test_skipping_resolution_changes_pixels_by_little():
    quickly, fully = gradient(800, 600, "JPEG"), gradient(800, 600)
    for sample in range(10):
        quick = np.asarray(random_resized_crop(quickly, 32, (0, 0, sample)), float)
        full = np.asarray(random_resized_crop(fully, 32, (0, 0, sample)), float)  # no JPEG: nothing to skip
        assert abs(quick - full).max() < 6


def test_evaluation_takes_the_middle_of_the_image_resized_to_256_for_224():
    pixels = np.asarray(center_crop(gradient(512, 256), 224), float)
    # Of 512 columns the crop begins 144 from the left, of 256 rows 16 from the top.
    assert pixels[0, 0, 0] == pytest.approx(255 * 144 / 511, abs=1.5)
    assert pixels[0, 0, 1] == pytest.approx(255 * 16 / 255, abs=1.5)
    assert pixels[-1, -1, 0] == pytest.approx(255 * 367 / 511, abs=1.5)


def test_shrinking_averages():
    """As torchvision does and tf.image.resize does not: noise becomes grey instead of other noise."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    file = ImageFile(stream.getvalue())
    assert np.std(noise) > 70
    assert np.std(center_crop(file, 14)) < 12
    assert np.std(random_resized_crop(file, 4, (0, 0, 0))) < 15


def test_grey_and_palette_images_become_rgb():
    for mode, stored_as in {"L": "PNG", "P": "PNG", "RGBA": "PNG", "CMYK": "JPEG", "1": "PNG"}.items():
        image = gradient(40, 30, stored_as, mode)
        assert random_resized_crop(image, 8, (0, 0, 0)).mode == "RGB"
        assert center_crop(image, 8).mode == "RGB"
