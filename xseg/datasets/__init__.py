"""Data sets: images, image-level labels and masks in the layouts that people have them in."""

from xseg.datasets import folder, imagenet_seg, images, pairs, table, voc  # noqa: F401 - each registers its format
from xseg.datasets.decode import decode_image, decode_mask, image_size
from xseg.datasets.formats import FORMATS
from xseg.datasets.index import UNKNOWN, UNKNOWN_WIDE, Dataset, Item, unknown_id
from xseg.datasets.opening import open_dataset
from xseg.datasets.source import ImageSource, digest

__all__ = [
    "FORMATS",
    "UNKNOWN",
    "UNKNOWN_WIDE",
    "Dataset",
    "ImageSource",
    "Item",
    "decode_image",
    "decode_mask",
    "digest",
    "image_size",
    "open_dataset",
    "unknown_id",
]
