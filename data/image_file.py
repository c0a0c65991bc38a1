"""The contents of an image file: their size at once, their pixels when they are asked for.

JPEG is decoded by simplejpeg, which is libjpeg-turbo without the copies that Pillow makes of each picture. What it
does not take, PNG, CMYK and damaged files, goes to Pillow, whose libjpeg-turbo gives the very same pixels: which of
the two decoded an image cannot be seen in training.
"""

import io
import math

import simplejpeg
from PIL import Image, UnidentifiedImageError

_SCALES = (8, 4, 2)  # libjpeg-turbo has others, slower than decoding in full
_COLORS = ("YCbCr", "Gray", "RGB")


class ImageFile:
    """An image that has been read and not yet decoded.

    size: width and height in pixels, as stored; a rotation told in EXIF is not applied, nor does torchvision.
    """

    def __init__(self, contents: bytes):
        """Raises ValueError or OSError where the contents are no image, SyntaxError for some broken PNG."""
        self._contents = contents
        self._is_common_jpeg = False
        try:
            height, width, colors, _ = simplejpeg.decode_jpeg_header(contents)
        except ValueError:
            self.size = self._opened().size
            return
        self.size = (width, height)
        # Beyond Pillow's limit a damaged header is likelier than a photograph: Pillow decides.
        self._is_common_jpeg = colors in _COLORS and width * height <= (Image.MAX_IMAGE_PIXELS or math.inf)

    def decode(self, at_least: tuple[int, int] | None = None) -> Image.Image:
        """The picture as RGB.

        at_least: width and height that suffice for the whole picture: a JPEG at least twice as large is decoded
        at 1/2, 1/4 or 1/8 of its resolution, never below this. Without it the picture comes in full. Raises
        what Pillow does for damaged contents.
        """
        if self._is_common_jpeg:
            width, height = self.size
            room = min(width // at_least[0], height // at_least[1]) if at_least else 1
            scale = next((scale for scale in _SCALES if scale <= room), 1)
            smallest = (math.ceil(height / scale), math.ceil(width / scale)) if scale > 1 else (0, 0)
            try:
                pixels = simplejpeg.decode_jpeg(self._contents, min_height=smallest[0], min_width=smallest[1])
                return Image.fromarray(pixels)
            except ValueError:
                pass  # damaged: Pillow makes do with it, or says what is wrong
        image = self._opened()
        if at_least:
            image.draft("RGB", at_least)
        return image.convert("RGB")

    def _opened(self) -> Image.Image:
        try:
            return Image.open(io.BytesIO(self._contents))
        except UnidentifiedImageError as error:
            raise ValueError("of no format that Pillow knows") from error
