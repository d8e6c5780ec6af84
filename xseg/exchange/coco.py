"""Masks as COCO annotations: run lengths of each class in each image, as pycocotools reads them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def run_lengths(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of a mask (H,W), down its columns, beginning with a run of zeros that may be empty."""
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return [0, *lengths] if flat[0] else lengths


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


def annotation(mask: npt.NDArray[np.bool_], number: int, image: int, category: int) -> dict[str, Any]:
    """One class in one image; all its regions together.

    Args:
        mask: (H,W), with at least one pixel set.
        number: the annotation's own.
        image: number of the image.
        category: class id, from 1.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": {"size": list(mask.shape), "counts": packed(run_lengths(mask))},
        "area": int(mask.sum()),
        "bbox": [int(side) for side in box],
        "iscrowd": 0,
    }
