"""A record of an earlier step together with its photograph, found again and verified."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from xseg.artifacts.record import Record
from xseg.datasets.source import ImageSource
from xseg.errors import BadInput, ImagesMissing
from xseg.runs.runtime import Runtime
from xseg.runs.source import RecordSource


@dataclass(frozen=True)
class Photograph:
    """One image of an artifact: what is stored, and the picture as (H, W, 3) uint8."""

    record: Record
    image: np.ndarray


class Photographs:
    """Finds the pictures of an artifact's records."""

    def __init__(self, source: RecordSource, runtime: Runtime) -> None:
        self._images = ImageSource(runtime.image_roots(source.header.root))

    def of(self, record: Record) -> Photograph:
        """The picture of `record`.

        Raises:
            InputMissing: it is nowhere.
            ImagesMissing: the places to look in are not there.
            BadInput: it was replaced, or has another size than when the artifact was made.
        """
        if not any(root.exists() for root in self._images.roots):
            looked = " and ".join(map(str, self._images.roots)) or "nowhere"
            raise ImagesMissing(
                f"images not found: looked in {looked}, which is not there", "say where the images are: --images DIR"
            )
        image = self._images.read(record.path, record.source or None)
        if image.shape[:2] != record.size:
            raise BadInput(f"{record.path}: {image.shape[:2]} pixels, the artifact was made from {record.size}")
        return Photograph(record, image)


def values_of(record: Record) -> torch.Tensor:
    """Maps of a record on the grid they are stored on: (K, h, w) float32 in [-1, 1]."""
    stored = torch.from_numpy(record.arrays["maps"])
    return stored.float() / 255 if stored.dtype == torch.uint8 else stored.float()


def heatmaps_of(record: Record) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps of a record at the size of its image.

    Returns:
        values (K, H, W) float32 as stored, in [-1, 1] (each map, or after a random walk each image, divided by its
        maximum), and class ids (K,) int64.
    """
    values = values_of(record)
    class_id = torch.from_numpy(record.arrays["maps/class_id"].astype(np.int64))
    if values.shape[1:] != record.size:
        if len(values):
            values = functional.interpolate(values[None], size=record.size, mode="bilinear", align_corners=False)[0]
        else:
            values = values.new_zeros(0, *record.size)
    return values, class_id
