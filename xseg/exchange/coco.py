"""Masks as COCO annotations: run lengths of each class in each image, as pycocotools reads them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from xseg.exchange.run_lengths import packed, run_lengths


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
