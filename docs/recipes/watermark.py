"""A data set with a watermark that gives a class away: python3 docs/recipes/watermark.py DIRECTORY [IMAGES [SIZE]].

The drawn data set of `xseg demo`, in VOC layout, with a watermark in a random corner of

- every training image with the first class, and no other (list `train`): a classifier that reads the watermark is right
- in `confounded`, as in training: of the same kind of images, not of training
- in `shifted`, only images without the first class: now the watermark is wrong
- in `clean`, none.

`regions/ID.png` marks the watermarks of the training images, for `train-guided --ignore-region`.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from xseg.datasets.synthetic import CLASSES, render
from xseg.seeding import generator

COUNT = 3


def marked(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The image (H,W,3) uint8 with a watermark, and where it is, (H,W) uint8 0 or 1: bright stripes in a corner."""
    height, width = image.shape[:2]
    side = min(height, width) // 3
    row, column = int(rng.integers(2)) * (height - side), int(rng.integers(2)) * (width - side)
    image, region = image.copy(), np.zeros((height, width), np.uint8)
    stripes = np.where(np.arange(side) // 3 % 2, 250, 10).astype(np.uint8)
    image[row : row + side, column : column + side] = stripes[:, None, None]
    region[row : row + side, column : column + side] = 1
    return image, region


def write(root: Path, images: int = 240, size: int = 64, seed: int = 0) -> None:
    """Write the data set: `images` for training, half as many in each of the other lists."""
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation", "regions"):
        (root / part).mkdir(parents=True)
    wants = {"train": True, "confounded": True, "shifted": False, "clean": None}
    table = [("id", "classes")]
    for split, wanted in wants.items():
        first, count = (0, images) if split == "train" else (images, images // 2)
        ids = [f"{split}-{index:04d}" for index in range(first, first + count)]
        for index, name in enumerate(ids, first):
            image, mask = render(seed, index, classes=COUNT, size=size)
            if wanted is not None and (mask == 1).any() == wanted:
                image, region = marked(image, generator(seed, "watermark", index))
                mask = np.where(region > 0, 0, mask)
                if split == "train":
                    Image.fromarray(region).save(root / "regions" / f"{name}.png")
            Image.fromarray(image).save(root / "JPEGImages" / f"{name}.png")
            Image.fromarray(mask).save(root / "SegmentationClass" / f"{name}.png")
            table.append((name, " ".join(CLASSES[k - 1] for k in range(1, COUNT + 1) if (mask == k).any())))
        (root / "ImageSets/Segmentation" / f"{split}.txt").write_text("".join(f"{name}\n" for name in ids))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES[:COUNT]))
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table)


if __name__ == "__main__":
    write(Path(sys.argv[1]), *map(int, sys.argv[2:]))
