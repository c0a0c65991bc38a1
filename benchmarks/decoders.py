"""JPEG decoders that a pip install brings and that need neither framework, and TensorFlow's own: decoding alone.

Each is called as its documentation has it for RGB pixels in memory; all but TensorFlow's give the same pixels.
"""

import io
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

BATCH = 32

Decode = Callable[[bytes], Any]


def with_pillow(contents: bytes) -> np.ndarray:
    """Pillow's way, and its copy into an array."""
    return np.asarray(Image.open(io.BytesIO(contents)).convert("RGB"))


def opencv() -> Decode:
    """opencv-python-headless. It returns half a picture for half a file, with a warning on stderr."""
    cv2 = import_module("cv2")
    cv2.setNumThreads(1)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return lambda contents: cv2.imdecode(np.frombuffer(contents, np.uint8), flags)


def imagecodecs() -> Decode:
    """imagecodecs."""
    decode: Decode = import_module("imagecodecs").jpeg8_decode
    return decode


def kornia_rs() -> Decode:
    """kornia-rs."""
    return partial(import_module("kornia_rs").io.decode_image_jpegturbo, mode="rgb")


def pyvips() -> Decode:
    """pyvips-binary: libvips."""
    image = import_module("pyvips").Image
    return lambda contents: image.new_from_buffer(contents, "").numpy()


def tensorflow() -> Decode:
    """tf.io, eagerly, with the decoding that it chooses by itself: fast, and of other pixels."""
    io_of_tf = import_module("tensorflow").io
    return lambda contents: io_of_tf.decode_jpeg(contents, channels=3).numpy()


DECODERS: dict[str, tuple[str, Callable[[], Decode]]] = {
    "ours": ("simplejpeg", lambda: simplejpeg.decode_jpeg),
    "Pillow": ("PIL", lambda: with_pillow),
    "OpenCV": ("cv2", opencv),
    "imagecodecs": ("imagecodecs", imagecodecs),
    "kornia-rs": ("kornia_rs", kornia_rs),
    "libvips": ("pyvips", pyvips),
    "tf.io": ("tensorflow", tensorflow),
}
"""By name: the package that has to be there, and what makes the function."""


def decoded(name: str, folder: Path) -> Iterator[Any]:
    """Batches of the folder's files, decoded one after the other and thrown away; files are in memory."""
    decode = DECODERS[name][1]()
    contents = [path.read_bytes() for path in sorted(folder.glob("train/*/*"))]
    random = np.random.default_rng(0)
    while True:
        for index in random.integers(len(contents), size=BATCH):
            pixels = decode(contents[index])
        yield pixels
