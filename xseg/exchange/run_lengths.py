"""Masks as COCO's run lengths: down the columns, beginning with a run of zeros; as numbers or packed into text."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_GROUPS = 7  # of five bits: more than any image has pixels


def run_lengths(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of a mask (H,W), down its columns, beginning with a run of zeros that may be empty."""
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return [0, *lengths] if flat[0] else lengths


def filled(lengths: Sequence[int] | npt.NDArray[np.int64], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The mask (H,W) of these runs, which sum up to H times W."""
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(size, order="F")


def packed(lengths: Sequence[int]) -> str:
    """Run lengths in COCO's text: differences to the last but one, in groups of five bits, the lowest first."""
    text = []
    for place, length in enumerate(lengths):
        rest = length - lengths[place - 2] if place > 2 else length
        while True:
            bits, rest = rest & 31, rest >> 5
            more = rest != (-1 if bits & 16 else 0)  # the sign is that of the last group's highest bit
            text.append(chr(48 + (bits | 32 * more)))
            if not more:
                break
    return "".join(text)


def unpacked(text: str) -> npt.NDArray[np.int64]:
    """Run lengths of COCO's text; those of no mask where the text is none of it.

    Raises:
        ValueError: characters that do not occur, a text that is cut off, or a number of too many groups.
    """
    groups = np.array([ord(character) - 48 for character in text], np.int64)
    last = np.flatnonzero(groups < 32)
    if ((groups < 0) | (groups > 63)).any() or (len(groups) and (not len(last) or last[-1] < len(groups) - 1)):
        raise ValueError("not a text of run lengths")
    first = np.concatenate([[0], last[:-1] + 1])[: len(last)]
    counts = last - first + 1
    if (counts > _GROUPS).any():
        raise ValueError("a run is longer than any image")
    shifts = 5 * (np.arange(len(groups)) - np.repeat(first, counts))
    values = np.add.reduceat((groups & 31) << shifts, first) if len(first) else groups
    values -= np.where(groups[last] & 16, 1 << 5 * counts, 0)
    for start in (1, 2):  # from the fourth on, each is the difference to the last but one
        values[start::2] = np.cumsum(values[start::2])
    return values
