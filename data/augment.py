"""How an image is cut to size, as torchvision does it: at random to train, at the centre to evaluate."""

import math

import numpy as np
from PIL import Image

from data.image_file import ImageFile

_AREA = (0.08, 1.0)  # of the image, for the random crop
_ASPECT = (3 / 4, 4 / 3)  # width / height
_CROP_ATTEMPTS = 10
_RESIZE_PER_CROP = 256 / 224  # evaluation resizes the shorter side to 256 for a crop of 224


def random_resized_crop(file: ImageFile, size: int, key: tuple[int, int, int]) -> Image.Image:
    """A random part of the image, resized to size x size and flipped in half of the cases; RGB.

    key: (seed, epoch, sample), which alone determines the crop and the flip, in whatever process.

    Of an image at least twice as large as the crop needs, the JPEG decoder is asked for 1/2, 1/4 or 1/8 of the
    resolution, never below the size wanted: a large photograph takes a third of the time. Pixels differ
    slightly from those of a full decode; the crop is the same.
    """
    seed, epoch, sample = key
    # The sample is the counter's highest word: each sample has a stream of its own.
    words = np.array([seed % 2**64, epoch, 0, 0, 0, sample], np.uint64)
    random = np.random.Generator(np.random.Philox(key=words[:2], counter=words[2:]))
    full_width, full_height = file.size
    left, top, width, height = _random_box(full_width, full_height, random)
    image = file.decode((math.ceil(full_width * size / width), math.ceil(full_height * size / height)))
    across, down = image.width / full_width, image.height / full_height
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    crop = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else crop


def center_crop(file: ImageFile, size: int) -> Image.Image:
    """The middle size x size of the image, whose shorter side is first resized to size * 256 / 224; RGB.

    Decoded in full, so that accuracies can be compared with published ones.
    """
    shorter = round(size * _RESIZE_PER_CROP)
    scale = shorter / min(file.size)
    width, height = (max(shorter, int(side * scale)) for side in file.size)
    resized = file.decode().resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return resized.crop((left, top, left + size, top + size))


def _random_box(width: int, height: int, random: np.random.Generator) -> tuple[int, int, int, int]:
    """left, top, width and height in pixels of a crop with random area and aspect (Szegedy et al. 2015)."""
    for _ in range(_CROP_ATTEMPTS):
        area = width * height * _between(_AREA[0], _AREA[1], random)
        aspect = math.exp(_between(math.log(_ASPECT[0]), math.log(_ASPECT[1]), random))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(random.random() * (width - crop_width + 1))
            top = int(random.random() * (height - crop_height + 1))
            return left, top, crop_width, crop_height
    # Too long or too tall an image: the largest part of it in the middle that has an allowed aspect.
    crop_width = min(width, round(height * _ASPECT[1]))
    crop_height = min(height, round(width / _ASPECT[0]))
    return (width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height


def _between(low: float, high: float, random: np.random.Generator) -> float:
    return low + (high - low) * random.random()
