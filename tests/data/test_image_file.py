import io
import struct

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from data.image_file import ImageFile

WIDTH, HEIGHT = 83, 61


def photograph(mode: str = "RGB", size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """Edges and grain: whatever two decoders do differently would show."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)


def stored(image: Image.Image, stored_as: str = "JPEG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, stored_as, **options)
    return stream.getvalue()


def rotated_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    return exif


def declared(contents: bytes, width: int, height: int) -> bytes:
    """The same JPEG under a header (its SOF0 segment) that tells another size."""
    at = contents.index(b"\xff\xc0")
    return contents[: at + 5] + struct.pack(">HH", height, width) + contents[at + 9 :]


JPEGS = {
    "4:2:0": stored(photograph(), quality=90),
    "4:2:2": stored(photograph(), quality=90, subsampling=1),
    "4:4:4": stored(photograph(), quality=90, subsampling=0),
    "progressive": stored(photograph(), quality=90, progressive=True),
    "restart markers": stored(photograph(), quality=90, restart_marker_rows=1),
    "grey": stored(photograph("L")),
    "RGB inside": stored(photograph(), keep_rgb=True),
    "rotated by EXIF": stored(photograph(), exif=rotated_exif()),
    "junk behind it": stored(photograph()) + b"junk" * 50,
}
OTHERS = {
    "CMYK": stored(photograph("CMYK")),
    "PNG": stored(photograph(), "PNG"),
    "PNG palette": stored(photograph("P"), "PNG"),
    "PNG with alpha": stored(photograph("RGBA"), "PNG"),
    "scrambled within": JPEGS["4:2:0"][:900] + b"\x12\x34\x56\x78" + JPEGS["4:2:0"][904:],
}


def pillow(contents: bytes, at_least: tuple[int, int] | None = None) -> np.ndarray:
    with Image.open(io.BytesIO(contents)) as image:
        if at_least:
            image.draft("RGB", at_least)
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("kind", JPEGS | OTHERS)
@pytest.mark.parametrize("share", [None, 1, 2, 3, 4, 7, 8, 20])
def test_the_pixels_are_pillows_whichever_decoded_them(kind, share):
    contents = (JPEGS | OTHERS)[kind]
    at_least = share and (-(-WIDTH // share), HEIGHT // share)
    file = ImageFile(contents)
    assert file.size == (WIDTH, HEIGHT)
    decoded = file.decode(at_least)
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(decoded), pillow(contents, at_least))


def test_what_is_scaled_while_decoding_is_never_below_what_is_wanted():
    file = ImageFile(JPEGS["4:2:0"])
    sizes = {wanted: file.decode((wanted, 2)).size for wanted in (42, 41, 21, 20, 11, 10, 1)}
    assert sizes == {
        42: (83, 61), 41: (42, 31), 21: (42, 31), 20: (21, 16), 11: (21, 16), 10: (11, 8), 1: (11, 8),
    }  # fmt: skip
    assert file.decode((10, 31)).size == (WIDTH, HEIGHT)  # the other side decides
    assert file.decode((10, 30)).size == (42, 31)


@pytest.mark.parametrize("kind", JPEGS)
def test_an_ordinary_jpeg_never_gets_to_pillows_decoder(kind, monkeypatch):
    def forbidden(self):
        raise AssertionError("Pillow was asked to decode")

    monkeypatch.setattr(JpegImageFile, "load", forbidden)
    ImageFile(JPEGS[kind]).decode()
    ImageFile(JPEGS[kind]).decode((10, 10))


DAMAGES = {
    "empty": b"",
    "a web page": b"<html>not found</html>",
    "half of the header": JPEGS["4:2:0"][:200],
    "half of it": JPEGS["4:2:0"][: len(JPEGS["4:2:0"]) // 2],
    "half of it, progressive": JPEGS["progressive"][: len(JPEGS["progressive"]) // 2],
    "without its end": JPEGS["4:2:0"][:-2],
    "half of a PNG": OTHERS["PNG"][: len(OTHERS["PNG"]) // 2],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_cut_short_is_an_error_at_every_scale(damage):
    for at_least in (None, (10, 10)):
        with pytest.raises((ValueError, OSError, SyntaxError)):
            ImageFile(DAMAGES[damage]).decode(at_least)


def test_a_size_that_only_a_damaged_header_tells_takes_no_memory(monkeypatch):
    """libjpeg fills what is missing with grey: 12 GB of it, here."""

    def forbidden(*arguments, **options):
        raise AssertionError("decoding began")

    monkeypatch.setattr(simplejpeg, "decode_jpeg", forbidden)
    with pytest.raises(Image.DecompressionBombError):
        ImageFile(declared(JPEGS["4:2:0"], 65_000, 65_000)).decode()
