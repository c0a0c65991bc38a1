import io
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.decoders import BATCH, DECODERS, decoded

INSTALLED = [name for name, (package, _) in DECODERS.items() if find_spec(package)]


@pytest.fixture(scope="module")
def contents() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).resize((83, 61), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


@pytest.mark.parametrize("name", INSTALLED)
def test_every_decoder_gives_the_same_pixels_but_tensorflows(name: str, contents: bytes) -> None:
    """Its fast DCT is why no strategy may decode for itself (docs/matching.md)."""
    pixels = DECODERS[name][1]()(contents)
    expected = DECODERS["Pillow"][1]()(contents)
    assert pixels.shape == expected.shape == (61, 83, 3)
    assert np.array_equal(pixels, expected) == (name != "tf.io")


def test_files_are_decoded_again_and_again(contents: bytes, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "train" / "ant").mkdir(parents=True)
    (tmp_path / "train" / "ant" / "0.jpg").write_bytes(contents)
    seen: list[bytes] = []
    monkeypatch.setitem(DECODERS, "ours", ("simplejpeg", lambda: seen.append))
    list(islice(decoded("ours", tmp_path), 2))
    assert seen == [contents] * 2 * BATCH
