"""Batches of images of which a fixed share has masks, each a function of the step alone."""

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from xseg.classifier.settings import TrainSettings
from xseg.datasets.index import Dataset, unknown_id
from xseg.datasets.transforms import Geometry, apply_to_labels, augment
from xseg.guided.losses import IGNORE
from xseg.guided.masks import Regions
from xseg.guided.settings import Unknown
from xseg.seeding import generator, key_seed
from xseg.training.order import SampleOrder
from xseg.training.prefetch import prefetch

Sample = tuple[int, int, bool]  # place in the data set, epoch of its own list, whether its mask is used


class MixedOrder:
    """Two endless sequences, with and without masks, taken from in a fixed ratio.

    The p-th sample of the training comes with a mask if floor((p+1) share) > floor(p share): in every run of samples
    the ratio is kept to within one, so that each process of several gets its share of the dearer ones.

    Args:
        masked: places of the images with masks.
        rest: places of the others.
        share: of those with masks; if one of the lists is empty it has no say.
        seed: of the shuffling.
        batch_size: samples per step of all processes.
        part: (i, n): the i-th of n slices of every batch.
    """

    def __init__(
        self,
        masked: Sequence[int],
        rest: Sequence[int],
        share: float,
        seed: int,
        batch_size: int,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self._lists = (rest, masked)
        self._orders = [SampleOrder(len(places), seed) if places else None for places in self._lists]
        exact = Fraction(share).limit_denominator(10**6)
        self._share = Fraction(1) if not rest else Fraction(0) if not masked else exact
        self._batch_size, self._part = batch_size, part

    def batch(self, step: int) -> list[Sample]:
        """This process's samples of one step."""
        number, parts = self._part
        first = step * self._batch_size
        bounds = (first + slice_ * self._batch_size // parts for slice_ in (number, number + 1))
        return [self._sample(position) for position in range(*bounds)]

    def _sample(self, position: int) -> Sample:
        before, after = (int(where * self._share) for where in (position, position + 1))
        masked = after > before
        order, places = self._orders[masked], self._lists[masked]
        assert order is not None  # the share of an empty list is 0
        ((index, epoch, _),) = order.batch(before if masked else position - before, 1)
        return places[index], epoch, masked


class GuidedBatches:
    """Augmented images with labels, masks and regions.

    Args:
        dataset: images.
        order: which sample comes when.
        settings: of crop, resize, flip and jitter, drawn per (seed, id, epoch) as for `train-cls`.
        unknown: whether pixels of unknown class count as background.
        regions: to be ignored; None: there are none.
        workers: threads that decode and augment; 0 for none.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: MixedOrder,
        settings: TrainSettings,
        *,
        unknown: Unknown,
        regions: Regions | None,
        workers: int,
    ) -> None:
        self._dataset, self._order, self._settings = dataset, order, settings
        self._unknown, self._regions, self._workers = unknown, regions, workers

    def __call__(self, steps: range) -> Iterator[dict[str, Tensor]]:
        """The batch of each step.

        Yields:
            `images` (N,3,h,w) uint8, `valid` (N,4) int64 boxes, `labels` (N,C) uint8, `mask` (N,h,w) int64 class ids
            with -1 where nothing is known, `masked` (N,) bool, `region` (N,h,w) bool, `draw` (N,) int64.
        """
        for samples in prefetch(self._order.batch, self._load, steps, workers=self._workers):
            yield {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    def _load(self, sample: Sample) -> dict[str, Tensor]:
        place, epoch, masked = sample
        item, settings = self._dataset.items[place], self._settings
        image = self._dataset.read_image(item)
        size = (image.shape[0], image.shape[1])
        made = augment(image, generator(settings.seed, item.id, epoch), settings.augmentation())
        mask = np.full(made.geometry.size, IGNORE, np.int64)
        labels = self._dataset.label_vector(item)
        if masked:
            mask = self._mask(self._dataset.read_mask(item, size), made.geometry)
            labels = labels_in(mask, len(labels))
        region = np.zeros(made.geometry.size, bool)
        if self._regions is not None:
            region = apply_to_labels(self._regions.read(item, size), made.geometry, False)
        return {
            "images": torch.from_numpy(np.ascontiguousarray(made.image.transpose(2, 0, 1))),
            "valid": torch.tensor(made.geometry.valid),
            "labels": torch.from_numpy(labels),
            "mask": torch.from_numpy(mask),
            "masked": torch.tensor(masked),
            "region": torch.from_numpy(region),
            "draw": torch.tensor(key_seed(settings.seed, "class", item.id, epoch)),
        }

    def _mask(self, mask: np.ndarray, geometry: Geometry) -> np.ndarray:
        ids = mask.astype(np.int64)
        ids[mask == unknown_id(len(self._dataset.classes))] = IGNORE if self._unknown == "ignore" else 0
        return apply_to_labels(ids, geometry, IGNORE)


def labels_in(mask: np.ndarray, classes: int) -> np.ndarray:
    """Image-level labels (C,) uint8 of what a mask (h,w) shows: 1 for the classes with a pixel, else 0.

    A mask without any known pixel says nothing: all 255.
    """
    present = np.unique(mask)
    if not (present != IGNORE).any():
        return np.full(classes, 255, np.uint8)
    labels = np.zeros(classes, np.uint8)
    labels[present[present > 0] - 1] = 1
    return labels
