"""One way of making training batches, in a process of its own that works only while it is told to.

    python -m benchmarks.input_contestant CONTESTANT FOLDER

Each line on stdin asks for one window; the answer is how many samples a second of CPU time it gave, over all
threads and loader processes. The folder is that of race_input.py.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]  # ships none
import simplejpeg
from PIL import Image

from benchmarks.decoders import BATCH, DECODERS, decoded
from data.augment import _random_box
from data.order import SampleOrder
from data.pipeline import train_batches
from data.sources import open_source

IMAGE_SIZE, IMAGE_BATCH, NUM_CLASSES = 224, 32, 2
CONTEXT, TOKEN_BATCH, VOCABULARY = 1024, 32, 50257
WINDOW_BATCHES = {"images": 4, "tokens": 400, "decoders": 6}
MANY_STEPS = 100_000
SETTLES_S = 1.0

Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""


def ours(kind: str, folder: Path, loader_workers: int = 0) -> Iterator[Any]:
    """The batches as our scripts get them; without loader processes prepared in this thread."""
    source = open_source(
        kind, split="train", path=str(folder), image_size=IMAGE_SIZE, num_classes=NUM_CLASSES,
        context=CONTEXT, vocabulary=VOCABULARY,
    )  # fmt: skip
    order = SampleOrder(source.num_samples, IMAGE_BATCH if kind == "images" else TOKEN_BATCH, 0)
    return train_batches(
        source, order, rank=0, workers=1, accumulation=1, first_step=0, num_steps=MANY_STEPS,
        loader_workers=loader_workers, prefetch_batches=2 if loader_workers else 0,
    )  # fmt: skip


def pillow_images(folder: Path) -> Iterator[Any]:
    """What torchvision's ImageFolder and RandomResizedCrop do with Pillow, without torch's data loader."""
    for paths, random in _image_batches(folder):
        images = []
        for path in paths:
            with path.open("rb") as file:
                image = Image.open(file).convert("RGB")
            left, top, width, height = _random_box(*image.size, random)
            crop = image.crop((left, top, left + width, top + height))
            crop = crop.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
            if random.random() < 0.5:
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            images.append(np.array(crop))
        yield np.stack(images)


def decoded_images(folder: Path) -> Iterator[Any]:
    """simplejpeg and nothing else: files from memory, one buffer for all pixels."""
    contents = [path.read_bytes() for path in sorted(folder.glob("train/*/*"))]
    largest = max(math.prod(simplejpeg.decode_jpeg_header(each)[:2]) for each in contents)
    pixels = np.empty(3 * largest, np.uint8)
    random = np.random.default_rng(0)
    while True:
        for index in random.integers(len(contents), size=IMAGE_BATCH):
            simplejpeg.decode_jpeg(contents[index], buffer=pixels)
        yield pixels


def cropped_images(folder: Path, resize: Callable[[np.ndarray, Box], Any]) -> Iterator[Any]:
    """simplejpeg and a resizing, as little around them as possible."""
    for paths, random in _image_batches(folder):
        images = np.empty((IMAGE_BATCH, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        for row, path in zip(images, paths, strict=True):
            pixels = simplejpeg.decode_jpeg(path.read_bytes())
            row[:] = resize(pixels, _random_box(pixels.shape[1], pixels.shape[0], random))
        yield images


def resized_by_pillow(pixels: np.ndarray, box: Box) -> np.ndarray:
    """Averages when it shrinks: a triangle as wide as the ratio."""
    left, top, width, height = box
    edges = (left, top, left + width, top + height)
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, box=edges))


def resized_by_opencv(pixels: np.ndarray, box: Box, averaged: bool) -> Any:
    """averaged: over the area that a pixel covers; otherwise the nearest four, as tf.image.resize."""
    cv2 = import_module("cv2")
    left, top, width, height = box
    shrinks = averaged and max(width, height) > IMAGE_SIZE
    part = pixels[top : top + height, left : left + width]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(part, (IMAGE_SIZE, IMAGE_SIZE), interpolation=how)


def tf_images(folder: Path) -> Iterator[Any]:
    """tf.data with one thread, as TensorFlow's own ResNet does it: partial decoding, fast and inexact DCT."""
    from benchmarks.input_tf import cropped_batches

    return cropped_batches(folder, IMAGE_SIZE, IMAGE_BATCH)


def nanogpt_tokens(folder: Path) -> Iterator[Any]:
    """nanoGPT's get_batch up to torch: slices of a memmap, cast to int64 and stacked."""
    random = np.random.default_rng(0)
    while True:
        tokens = np.memmap(folder / "train.bin", "<u2", "r")
        starts = random.integers(len(tokens) - CONTEXT, size=TOKEN_BATCH)
        inputs = np.stack([tokens[start : start + CONTEXT].astype(np.int64) for start in starts])
        yield inputs, np.stack([tokens[start + 1 : start + 1 + CONTEXT].astype(np.int64) for start in starts])


def gathered_tokens(folder: Path) -> Iterator[Any]:
    """NumPy's gather of the windows and two casts to int32, nothing else."""
    tokens = np.asarray(np.memmap(folder / "train.bin", "<u2", "r"))
    windows = np.lib.stride_tricks.sliding_window_view(tokens, CONTEXT + 1)[::CONTEXT]
    random = np.random.default_rng(0)
    while True:
        chosen = windows[random.integers(len(windows), size=TOKEN_BATCH)]
        yield chosen[:, :-1].astype(np.int32), chosen[:, 1:].astype(np.int32)


def copied_tokens(folder: Path) -> Iterator[Any]:
    """Copies of as many bytes as a batch has, out of 64 MiB: what memory allows."""
    everything = np.zeros((2**24 // (TOKEN_BATCH * CONTEXT), TOKEN_BATCH, CONTEXT), np.int32)
    random = np.random.default_rng(0)
    while True:
        first, second = random.integers(len(everything), size=2)
        yield everything[first].copy(), everything[second].copy()


Make = Callable[[Path], Iterator[Any]]
AREA, LINEAR = "simplejpeg and OpenCV's INTER_AREA alone", "simplejpeg and OpenCV's INTER_LINEAR alone"
CONTESTANTS: dict[str, dict[str, Make]] = {
    "images": {
        "ours": lambda folder: ours("images", folder),
        "through a loader process": lambda folder: ours("images", folder, 1),
        "simplejpeg, decoding alone": decoded_images,
        "simplejpeg and Pillow's resizing alone": partial(cropped_images, resize=resized_by_pillow),
        AREA: partial(cropped_images, resize=partial(resized_by_opencv, averaged=True)),
        LINEAR: partial(cropped_images, resize=partial(resized_by_opencv, averaged=False)),
        "Pillow, as torchvision does it": pillow_images,
        "tf.data": tf_images,
    },
    "tokens": {
        "ours": lambda folder: ours("tokens", folder),
        "through a loader process": lambda folder: ours("tokens", folder, 1),
        "copying as many bytes": copied_tokens,
        "NumPy's gather alone": gathered_tokens,
        "nanoGPT's get_batch": nanogpt_tokens,
    },
    "decoders": {name: partial(decoded, name) for name in DECODERS},
}
NEEDED = {"tf.data": "tensorflow", AREA: "cv2", LINEAR: "cv2"} | {
    name: package for name, (package, _) in DECODERS.items()
}
"""The package that a contestant needs, where it needs one: it takes part if that is installed."""
SAMPLES = {"images": IMAGE_BATCH, "tokens": TOKEN_BATCH * CONTEXT, "decoders": BATCH}


def main() -> None:
    """Answer each line of stdin with a rate, until stdin ends."""
    kind, name, folder = sys.argv[1:]
    batches = CONTESTANTS[kind][name](Path(folder))
    next(batches)
    for _ in sys.stdin:
        before_s = cpu_time_s()
        for _ in range(WINDOW_BATCHES[kind]):
            next(batches)
        if psutil.Process().children():
            time.sleep(SETTLES_S)  # a loader process makes up for what was taken from its store
        print(WINDOW_BATCHES[kind] * SAMPLES[kind] / (cpu_time_s() - before_s), flush=True)
    if isinstance(batches, Generator):
        batches.close()
    sys.stdout.flush()
    os._exit(0)  # tf.data's threads would outlive the interpreter


def cpu_time_s() -> float:
    """Of this process and of those it started."""
    children = psutil.Process().children(recursive=True)
    return time.process_time() + sum(sum(child.cpu_times()[:2]) for child in children)


def _image_batches(folder: Path) -> Iterator[tuple[list[Path], np.random.Generator]]:
    paths = sorted(folder.glob("train/*/*"))
    random = np.random.default_rng(0)
    while True:
        yield [paths[index] for index in random.integers(len(paths), size=IMAGE_BATCH)], random


if __name__ == "__main__":
    main()
