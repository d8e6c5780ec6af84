"""Pictures in a terminal: two pixels to a character, the upper half in its colour, the lower in that of its ground."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from xseg.pictures.sheet import Row

_GAP = 1  # columns between pictures
_RESET = "\x1b[0m"


def half_blocks(picture: Image.Image, columns: int) -> list[str]:
    """A picture as lines of `columns` characters; every character is two square pixels, one above the other.

    Args:
        picture: any mode.
        columns: width in characters, 1 or more; the height follows from the aspect.

    Returns:
        Lines with 24-bit colour sequences, each of which ends in a reset.
    """
    height = max(1, round(picture.height * columns / picture.width / 2)) * 2
    pixels = np.asarray(picture.convert("RGB").resize((columns, height), Image.Resampling.BOX))
    return ["".join(map(_character, *pair)) + _RESET for pair in zip(pixels[::2], pixels[1::2], strict=True)]


def _character(upper: np.ndarray, lower: np.ndarray) -> str:
    return "\x1b[38;2;{};{};{};48;2;{};{};{}m▀".format(*upper, *lower)


def row_lines(row: Row, columns: int) -> list[str]:
    """The title, pictures side by side in `columns` characters, and a caption below each, cut to its room."""
    count = max(1, len(row.pictures))
    room = max(1, (columns + _GAP) // count - _GAP)
    drawn = [half_blocks(picture, room) for picture in row.pictures]
    lines = [(" " * _GAP).join(_padded(drawn, k, room)) for k in range(max(map(len, drawn), default=0))]
    captions = (" " * _GAP).join(_cut(caption, room) for caption in row.captions)
    return [_cut(row.title, columns).rstrip(), *lines, captions.rstrip(), ""]


def _padded(drawn: Sequence[Sequence[str]], line: int, room: int) -> list[str]:
    return [lines[line] if line < len(lines) else " " * room for lines in drawn]


def _cut(text: str, room: int) -> str:
    return (text if len(text) <= room else text[: room - 1] + "…").ljust(room)
