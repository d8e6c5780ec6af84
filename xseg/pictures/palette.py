"""The PASCAL VOC palette, by its rule, for any number of classes."""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]


def colours(ids: Ints) -> npt.NDArray[np.uint8]:
    """Colour of each class id by the rule of the VOC devkit (`VOClabelcolormap`).

    Bits 0, 3, 6 ... of the id become the bits of red from the highest down, bits 1, 4, 7 ... of green, and 2, 5,
    8 ... of blue: ids below 2^24 have different colours; 0 is black, and the unknown labels 255 and 65535 are the
    pale (224, 224, 192) and (252, 248, 248).

    Args:
        ids: non-negative integers below 2^24, any shape.

    Returns:
        (..., 3) uint8 red, green, blue.

    Raises:
        ValueError: an id out of range.
    """
    codes = np.asarray(ids, np.int64)
    if codes.size and (codes.min() < 0 or codes.max() >= 2**24):
        raise ValueError(f"class ids {codes.min()}..{codes.max()}, needed 0..{2**24 - 1}")
    out = np.zeros((*codes.shape, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            out[..., channel] |= (codes >> (3 * bit + channel) & 1) << (7 - bit)
    return out.astype(np.uint8)


def palette(labels: int) -> npt.NDArray[np.uint8]:
    """The first `labels` colours, background first: (labels, 3) uint8."""
    return colours(np.arange(labels))
