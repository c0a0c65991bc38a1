"""What a source of samples looks like, and how one is opened by its name in a recipe.

Images travel as uint8 [n, S, S, 3] and tokens as int32 [n, T]: the smallest form, normalised on the device.
A target of -1 does not count: it marks padding tokens and the filler samples of exact evaluation.
"""

from typing import Any, Protocol

import numpy as np

from data.errors import DataError

SOURCE_NAMES = ("digits", "stdlib", "text", "tokens", "images", "synthetic")


class Source(Protocol):
    """One split of one data set, in which a sample is a number from 0 to num_samples - 1."""

    num_samples: int
    resident: bool  # one fixed batch that may stay on the device for the whole run

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the data, 64 hex digits: equal data, equal fingerprint."""

    def batch(self, ids: np.ndarray, epochs: np.ndarray) -> dict[str, Any]:
        """The samples `ids` [n] as augmented in their `epochs` [n].

        Returns "inputs" (uint8 [n, S, S, 3] or int32 [n, T]), "targets" (int32 [n] or [n, T]) and "replaced",
        the number of corrupt samples that others stand in for. A pure function of its arguments. Raises
        DataError.
        """

    def target_count(self, ids: np.ndarray) -> int:
        """How many targets of the samples `ids` count, from an index and without reading them."""


def open_source(
    name: str,
    *,
    split: str,
    path: str | None = None,
    layout: str = "stream",
    image_size: int | None = None,
    num_classes: int | None = None,
    context: int | None = None,
    vocabulary: int | None = None,
    seed: int = 0,
    skip_corrupt: bool = False,
) -> Source:
    """Open one split, "train" or "validation", of the source that a recipe names.

    image_size: pixels a side; num_classes: outputs of an image model; context: tokens a sample; vocabulary:
    token ids that the model knows. An image source needs the first two, a token source the last two, and
    synthetic whichever pair the model has. Only the module of the named source is imported. Raises DataError
    where the data is missing, empty, or does not fit the model.
    """
    if split not in ("train", "validation"):
        raise DataError(f"split: found {split!r}, expected train or validation")
    match name:
        case "digits":
            from data.digits import Digits

            size, classes = _needs(name, image_size=image_size, num_classes=num_classes)
            return Digits(split, size, classes)
        case "images":
            from data.images import ImageFolder

            size, classes = _needs(name, image_size=image_size, num_classes=num_classes)
            return ImageFolder(_path(name, path), split, size, classes, seed, skip_corrupt)
        case "stdlib":
            from data.stdlib import open_stdlib

            length, known_ids = _needs(name, context=context, vocabulary=vocabulary)
            return open_stdlib(split, layout, length, known_ids)
        case "text":
            from data.text import open_text

            length, known_ids = _needs(name, context=context, vocabulary=vocabulary)
            return open_text(_path(name, path), split, layout, length, known_ids)
        case "tokens":
            from data.tokens import TokenShards

            length, known_ids = _needs(name, context=context, vocabulary=vocabulary)
            return TokenShards(_path(name, path), split, layout, length, known_ids)
        case "synthetic":
            from data.synthetic import SyntheticImages, SyntheticTokens

            if context:
                length, known_ids = _needs(name, context=context, vocabulary=vocabulary)
                return SyntheticTokens(split, length, known_ids, seed)
            size, classes = _needs(name, image_size=image_size, num_classes=num_classes)
            return SyntheticImages(split, size, classes, seed)
    raise DataError(f"data.source: found {name!r}, expected one of: {', '.join(SOURCE_NAMES)}")


def _needs(name: str, **sizes: int | None) -> tuple[int, ...]:
    """The sizes, once it is sure that the model has them: digits for a GPT is a mistake in the recipe."""
    for key, size in sizes.items():
        if not size or size < 1:
            raise DataError(
                f"model.{key}: found {size}, but data.source = {name!r} needs at least 1; change either"
            )
    return tuple(size for size in sizes.values() if size)


def _path(name: str, path: str | None) -> str:
    if not path:
        raise DataError(f"data.path: missing; data.source = {name!r} needs it (add --set data.path=…)")
    return path
