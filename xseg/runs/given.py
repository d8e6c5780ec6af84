"""The images of a data set as the jobs of a per-image command."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from xseg.artifacts.record import Record
from xseg.datasets.index import Dataset, Item
from xseg.runs.shards import Shard


@dataclass(frozen=True)
class ImageJob:
    """An image of the work list that is to be processed."""

    index: int
    item: Item

    @property
    def id(self) -> str:
        """Its unique name."""
        return self.item.id


@dataclass(frozen=True)
class Given:
    """An image that was read.

    Attributes:
        job: which it is.
        image: (H,W,3) uint8.
        source: sha256 (hex) of its file.
        labels: (C,) uint8: 1 present, 0 absent, 255 unknown.
    """

    job: ImageJob
    image: np.ndarray
    source: str
    labels: np.ndarray

    def record(self, arrays: dict[str, np.ndarray]) -> Record:
        """What an artifact stores for it, given the arrays that were made of it."""
        item, (height, width) = self.job.item, self.image.shape[:2]
        return Record(self.job.index, item.id, item.path, (height, width), self.source, self.labels, arrays)


def jobs_of(dataset: Dataset, shard: Shard | None) -> list[ImageJob]:
    """The images of `dataset`, or of one slice of it, in order."""
    positions = shard.range(len(dataset)) if shard else range(len(dataset))
    return [ImageJob(index, dataset.items[index]) for index in positions]


def reader(dataset: Dataset, labels: Callable[[Item], np.ndarray]) -> Callable[[ImageJob], Given]:
    """What reads an image of `dataset`; `labels` gives its image-level labels."""

    def read(job: ImageJob) -> Given:
        image, source = dataset.read_verified(job.item)
        return Given(job, image, source, labels(job.item))

    return read
