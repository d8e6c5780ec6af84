"""Bytes of an image or mask file to an array, the same for every way of storing pixels."""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from xseg.errors import BadInput

MAX_PIXELS = 1 << 27
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM")  # none that runs another program to decode
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LOSSY = {"JPEG", "MPO", "WEBP"}
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Colour image, turned as its EXIF orientation says: (H, W, 3) uint8, writable.

    Grey is repeated, 16-bit grey is scaled by 1/257, transparency is laid on white, CMYK is converted without a
    profile (inverted Adobe JPEGs included), and of an animation the first frame is taken.

    Args:
        data: the file's bytes.
        name: for messages.

    Raises:
        BadInput: corrupt, truncated, not an image, too many pixels, or floating-point pixels.
    """
    with _opened(data, name) as image:
        turned = _turn(image)
        return np.array(_to_rgb(turned, name), np.uint8)


def decode_mask(data: bytes, name: str) -> np.ndarray:
    """Index mask: palette or grey values as they are, never through colours: (H, W) uint8, uint16 for 16-bit files.

    Args:
        data: the file's bytes (PNG, TIFF, BMP, GIF or PGM).
        name: for messages.

    Raises:
        BadInput: corrupt or truncated, RGB colours, or a lossy format.
    """
    with _opened(data, name) as image:
        if image.format in _LOSSY:
            raise BadInput(f"{name}: a {image.format} mask loses its ids in compression", "store masks as index PNG")
        if image.mode not in {"1", "L", "P", "I;16", "I;16B", "I"}:
            hint = "store class ids (grey or palette PNG): map each colour to its id"
            raise BadInput(f"{name}: a mask of colours ({image.mode}), needed one index per pixel", hint)
        values = np.array(_turn(image))
    if values.dtype.itemsize > 1:
        return _within_16_bits(values, name)
    return (values // _grey_step(data)).astype(np.uint8)


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """(height, width) after EXIF rotation; of most files only the header is read.

    Raises:
        BadInput: not an image, or too many pixels.
    """
    with _opened(data, name, load=False) as image:
        # TIFF turns itself while loading, and newer Pillow says so in `size` beforehand: ask the tags instead.
        tags = getattr(image, "tag_v2", {})
        width, height = tags.get(256, image.width), tags.get(257, image.height)
        turned = _orientation(image) >= 5
    return (width, height) if turned else (height, width)


@contextmanager
def _opened(data: bytes, name: str, load: bool = True) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                found = f"{image.width} x {image.height} pixels"
                raise BadInput(f"{name}: {found}, at most {MAX_PIXELS} are read", "make it smaller")
            if load:
                image.load()
            yield image
    except _DECODER_ERRORS as error:
        if not data:
            raise BadInput(f"{name}: an empty file", "restore it") from error
        if isinstance(error, Image.UnidentifiedImageError):
            kinds = ", ".join(FORMATS)
            raise BadInput(
                f"{name}: not an image of a kind that is read ({kinds})", "convert it, or leave it out"
            ) from error
        reason = str(error)
        raise BadInput(f"{name}: corrupt, truncated or too big ({reason})", "restore it, or leave it out") from error


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DECODER_ERRORS:
        return 1  # damaged metadata around sound pixels: shown upright, as every viewer does
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turn(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise BadInput(f"{name}: floating-point pixels, needed 8 or 16 bits", "convert it with a scale you choose")
    if image.mode.startswith("I"):
        grey = (_within_16_bits(np.array(image), name).astype(np.uint32) + 128) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or image.mode in {"RGBA", "LA", "PA", "RGBa", "La"}:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colours).convert("RGB")
    return image.convert("RGB")


def _within_16_bits(values: np.ndarray, name: str) -> np.ndarray:
    if values.min() < 0 or values.max() > 65535:
        raise BadInput(f"{name}: values {values.min()}..{values.max()}, needed 0..65535", "convert it to 16 bits")
    return values.astype(np.uint16)


def _grey_step(data: bytes) -> int:
    # Pillow stretches grey PNGs of 2 and 4 bits to 0..255; indices must be squeezed back.
    is_grey_png = data[:8] == b"\x89PNG\r\n\x1a\n" and data[25] == 0
    return {2: 85, 4: 17}.get(data[24], 1) if is_grey_png else 1
