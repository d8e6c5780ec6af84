"""Masks as PNG files: palette images that other tools read as class indices, and the way back."""

import io
import secrets
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from xseg.errors import BadInput, CannotCreate, InputMissing, OutputFailed
from xseg.pictures.palette import palette
from xseg.shapes import check_shapes

Mask = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
INDEXED = {"P", "L", "1", "I;16", "I;16B", "I"}


def encode_mask(mask: Mask) -> bytes:
    """A mask as PNG bytes.

    Args:
        mask: (H, W); uint8 becomes a palette image (mode P, VOC colours, 255 unknown), uint16 (more than 254 classes,
            65535 unknown) a 16-bit grey image, as palettes end at 256 colours.

    Raises:
        ValueError: another dtype, another number of axes, or no pixel.
    """
    check_shapes(mask=(mask, "H W"))
    if mask.dtype not in (np.uint8, np.uint16) or not mask.size:
        raise ValueError(f"mask has dtype {mask.dtype} and shape {mask.shape}, needed uint8 or uint16 with pixels")
    picture = Image.fromarray(np.ascontiguousarray(mask))
    if mask.dtype == np.uint8:
        picture = picture.convert("L")
        picture.putpalette(palette(256).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def decode_mask(data: bytes, name: str) -> Mask:
    """Class indices of a PNG: those of a palette image (its colours do not matter) or of a grey one.

    Args:
        data: the file's bytes.
        name: what to call it in messages.

    Returns:
        (H, W) uint8, or uint16 for 16-bit images; written by `encode_mask`, the very same array.

    Raises:
        BadInput: not an image, truncated, too large, or in colour without a palette.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
                mode, indices = picture.mode, np.asarray(picture)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise BadInput(f"{name} is not a readable PNG: {error}", "write the mask again") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadInput(f"{name} is too large: {error}", "split the image") from error
    if mode not in INDEXED:
        raise BadInput(f"{name} is a colour image ({mode}), needed class indices", "save it as a palette or grey PNG")
    return indices.astype(np.uint16) if mode.startswith("I") else indices.astype(np.uint8)


def write_mask_png(path: Path, mask: Mask) -> None:
    """Write a mask; the file appears under its name only when it is complete.

    Raises:
        CannotCreate: the folder cannot be made or written to.
        OutputFailed: writing failed, as on a full disk.
        ValueError: as `encode_mask`.
    """
    write_whole(path, encode_mask(mask))


def read_mask_png(path: Path) -> Mask:
    """Read a mask; see `decode_mask`.

    Raises:
        InputMissing: no such file.
        BadInput: as `decode_mask`.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputMissing(f"{path} is not there", "check the path") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}", "check that it is a readable file") from error
    return decode_mask(data, str(path))


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path`, then rename it over `path`; folders are made as needed.

    Raises:
        CannotCreate: the folder cannot be made or written to, or `path` is a folder.
        OutputFailed: writing failed, as on a full disk; nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a short name whatever the final one: both are limited to 255 bytes
        temporary = path.with_name(f".xseg-{secrets.token_hex(8)}")
        file = temporary.open("xb")
    except OSError as error:
        raise CannotCreate(f"{path} cannot be created: {error.strerror}", "choose another output") from error
    try:
        with file:
            file.write(data)
        temporary.replace(path)
    except OSError as error:
        failure = CannotCreate if isinstance(error, IsADirectoryError) else OutputFailed
        raise failure(f"writing {path} failed: {error.strerror}", "free some space or choose another output") from error
    finally:
        temporary.unlink(missing_ok=True)
