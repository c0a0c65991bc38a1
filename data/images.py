"""A folder of images laid out like ImageNet: train/<class>/*.JPEG and val/<class>/*.JPEG."""

import hashlib
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data.augment import center_crop, random_resized_crop
from data.errors import DataError
from data.image_file import ImageFile

_SUFFIXES = (".jpeg", ".jpg", ".png")
_FOLDERS = {"train": "train", "validation": "val"}
_MOST_CORRUPT_IN_A_ROW = 100


class ImageFolder:
    """One split of an image folder; labels number the folders of train/ in the order of their names.

    Training images are cropped and flipped at random, keyed by seed, epoch and sample; validation images are
    resized and cropped at the centre. With skip_corrupt an image that cannot be decoded is replaced by the
    next good one, the same on every worker; in validation, where each image counts once, its target is -1
    instead. Raises DataError, naming the path, for a folder of another layout and for a corrupt image
    otherwise.
    """

    resident = False

    def __init__(
        self, path: str, split: str, image_size: int, num_classes: int, seed: int, skip_corrupt: bool
    ):
        classes = class_names(Path(path))
        if len(classes) != num_classes:
            raise DataError(
                f"model.num_classes: found {num_classes}, expected {len(classes)},"
                f" the number of folders in {path}/train"
            )
        self._folder = Path(path) / _FOLDERS[split]
        self._classes = classes
        self._is_training = split == "train"
        self._image_size = image_size
        self._seed = seed
        self._skip_corrupt = skip_corrupt
        # A million names as Python strings would take ten times the memory, in every loader process.
        names, labels = [], []
        for name, label in image_names(self._folder, classes):
            names.append(os.fsencode(name))
            labels.append(label)
        self._names = b"".join(names)
        self._name_ends = np.cumsum([0, *map(len, names)])
        self._labels = np.array(labels, np.int32)
        self.num_samples = len(labels)

    @cached_property
    def fingerprint(self) -> str:
        """Of the names of classes and files: reading the contents of a large data set would take hours."""
        digest = hashlib.sha256("\0".join(self._classes).encode("utf-8", "surrogateescape"))
        for array in (self._name_ends.astype("<i8"), self._labels.astype("<i4")):
            digest.update(array.tobytes())
        digest.update(self._names)
        return digest.hexdigest()

    def batch(self, ids: np.ndarray, epochs: np.ndarray) -> dict[str, Any]:
        size = self._image_size
        images = np.zeros((len(ids), size, size, 3), np.uint8)
        targets = self._labels[ids]
        replaced = 0
        for row, (sample, epoch) in enumerate(zip(ids.tolist(), epochs.tolist(), strict=True)):
            shown = self._first_good(sample, epoch, images[row])
            if shown != sample:
                replaced += 1
                targets[row] = -1 if shown is None else self._labels[shown]
        return {"inputs": images, "targets": targets, "replaced": replaced}

    def target_count(self, ids: np.ndarray) -> int:
        return len(ids)

    def path_of(self, sample: int) -> Path:
        start, end = self._name_ends[sample : sample + 2]
        return self._folder / self._classes[self._labels[sample]] / os.fsdecode(self._names[start:end])

    def _first_good(self, sample: int, epoch: int, pixels: np.ndarray) -> int | None:
        """Fill `pixels` with the sample, or the next that can be decoded, and return which (or None)."""
        for offset in range(min(_MOST_CORRUPT_IN_A_ROW, self.num_samples)):
            candidate = (sample + offset) % self.num_samples
            try:
                pixels[:] = self._decode(candidate, epoch)
                return candidate
            except _CorruptImage as error:
                if not self._skip_corrupt:
                    raise DataError(
                        f"{self.path_of(candidate)}: corrupt image ({error}); mend or delete it, or set"
                        " data.skip_corrupt=true"
                    ) from error
                if not self._is_training:
                    return None
        raise DataError(
            f"{self.path_of(sample)}: this and the following images are all corrupt; check data.path"
        )

    def _decode(self, sample: int, epoch: int) -> np.ndarray:
        path = self.path_of(sample)
        try:
            contents = path.read_bytes()
        except OSError as error:  # a file system in trouble is no corrupt image: never skipped
            raise DataError(f"{path}: {error.strerror}; check data.path") from error
        try:
            file = ImageFile(contents)
            if self._is_training:
                key = (self._seed, epoch, sample)
                return np.asarray(random_resized_crop(file, self._image_size, key))
            return np.asarray(center_crop(file, self._image_size))
        except Exception as error:  # damaged files raise errors of a dozen types in the decoders
            raise _CorruptImage(" ".join(str(error).split())) from error


class _CorruptImage(Exception):
    """What was read is not an image that can be decoded."""


def class_names(path: Path) -> list[str]:
    """The class folders of train/, in the order of their names. Raises DataError where there are none."""
    try:
        with os.scandir(path / "train") as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        raise DataError(
            f"{path / 'train'}: {error.strerror}, expected train/<class>/*.JPEG; check data.path"
        ) from error
    if not names:
        raise DataError(
            f"{path / 'train'}: found no class folders, expected train/<class>/*.JPEG; check data.path"
        )
    return names


def image_names(folder: Path, classes: list[str]) -> Iterator[tuple[str, int]]:
    """File name and label of each image in the class folders of `folder`, by class and name.

    Raises DataError where a class is unknown to `classes` or no image is found.
    """
    found_any = False
    try:
        with os.scandir(folder) as entries:
            present = {entry.name for entry in entries if entry.is_dir()}
        unknown = sorted(present.difference(classes))
        if unknown:
            raise DataError(
                f"{folder / unknown[0]}: no such class in train/, expected the same folders in both"
            )
        for label, name in enumerate(classes):
            if name in present:
                for file in sorted(os.listdir(folder / name)):
                    if file.lower().endswith(_SUFFIXES):
                        found_any = True
                        yield file, label
    except OSError as error:
        raise DataError(
            f"{error.filename}: {error.strerror}, expected {folder.name}/<class>/*.JPEG; check data.path"
        ) from error
    if not found_any:
        raise DataError(f"{folder}: found no images, expected {folder.name}/<class>/*.JPEG; check data.path")
