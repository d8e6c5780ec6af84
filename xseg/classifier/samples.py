"""Batches of a data set for training and for validation."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from xseg.classifier.sides import nearest
from xseg.datasets import Dataset
from xseg.datasets.transforms import Augmentation, augment, resize
from xseg.errors import BadInput, InputMissing
from xseg.seeding import generator
from xseg.training.order import SampleOrder
from xseg.training.prefetch import prefetch


def label_matrix(dataset: Dataset) -> np.ndarray:
    """Label vectors of all items: (N,C) uint8, 255 unknown."""
    return np.stack([dataset.label_vector(item) for item in dataset.items])


def permute_labels(dataset: Dataset, seed: int) -> Dataset:
    """The same images, each with the label vector of one of them: a permutation drawn over the whole list.

    What a classifier learns from it has nothing to do with the pictures, while every class stays as frequent, and every
    combination of classes too: the random labels of Adebayo et al. 2018, arXiv:1810.03292.

    Args:
        dataset: images with image-level labels.
        seed: of the permutation, which depends on it and on the number of images alone.
    """
    order = generator(seed, "permute labels").permutation(len(dataset.items)).tolist()
    pairs = zip(dataset.items, order, strict=True)
    return replace(dataset, items=tuple(replace(item, labels=dataset.items[k].labels) for item, k in pairs))


class TrainingBatches:
    """Augmented batches, each a function of the step alone.

    Args:
        dataset: images and labels.
        order: which sample comes when.
        augmentation: crop, resize, flip and jitter; drawn per (seed, id, epoch).
        batch_size: samples per step.
        seed: of the augmentation.
        workers: threads that decode and augment; 0 for none.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: SampleOrder,
        augmentation: Augmentation,
        *,
        batch_size: int,
        seed: int,
        workers: int,
    ) -> None:
        self._dataset, self._order, self._augmentation = dataset, order, augmentation
        self._batch_size, self._seed, self._workers = batch_size, seed, workers

    def __call__(self, steps: range) -> Iterator[dict[str, Tensor]]:
        """Of each step `images` (N,3,h,w) uint8, `valid` (N,4) int64 boxes and `labels` (N,C) uint8."""
        for samples in prefetch(
            lambda step: self._order.batch(step, self._batch_size), self._load, steps, workers=self._workers
        ):
            images, valid, labels = zip(*samples, strict=True)
            yield {"images": torch.stack(images), "valid": torch.stack(valid), "labels": torch.stack(labels)}

    def _load(self, sample: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
        index, epoch, repeat = sample
        item = self._dataset.items[index]
        key = (item.id, epoch, repeat) if repeat else (item.id, epoch)
        made = augment(self._dataset.read_image(item), generator(self._seed, *key), self._augmentation)
        return (
            _channels_first(made.image),
            torch.tensor(made.geometry.valid),
            torch.from_numpy(self._dataset.label_vector(item)),
        )


def whole_images(
    dataset: Dataset,
    long_side: int | None,
    *,
    batch_size: int,
    workers: int,
    chosen: Sequence[int] | None = None,
    fixed: tuple[int, int] | None = None,
    steps: tuple[int, int] = (1, 1),
    failed: Callable[[int, BadInput | InputMissing], None] | None = None,
) -> Generator[tuple[list[int], Tensor], None, None]:
    """All images once, in batches of equal size, so that nothing has to be padded.

    Args:
        dataset: images.
        long_side: length of the resized long side, pixels; None keeps the size.
        batch_size: most images per batch.
        workers: threads that decode; 0 for none.
        chosen: indices of the images wanted; None: all.
        fixed: height and width of every image instead; the aspect ratio is then given up.
        steps: what height and width are made multiples of.
        failed: told the index of an image that cannot be read, and why; None: the error is raised.

    Yields:
        Indices into `dataset.items`, and images (n,3,h,w) uint8.

    Raises:
        BadInput, InputMissing: an image cannot be read, and nobody is to be told.
    """
    groups: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}

    def load(index: int) -> tuple[int, Tensor | BadInput | InputMissing]:
        try:
            image = dataset.read_image(dataset.items[index])
        except (BadInput, InputMissing) as error:
            if failed is None:
                raise
            return index, error
        return index, _channels_first(resize(image, _view(image, long_side, fixed, steps)))

    wanted = range(len(dataset.items)) if chosen is None else chosen
    count = len(wanted)
    chunks = range(-(-count // batch_size))
    for loaded in prefetch(lambda k: wanted[k * batch_size : (k + 1) * batch_size], load, chunks, workers=workers):
        for index, image in loaded:
            if not isinstance(image, Tensor):
                if failed is not None:
                    failed(index, image)
                continue
            group = groups.setdefault(tuple(image.shape), [])
            group.append((index, image))
            if len(group) == batch_size:
                yield _joined(groups.pop(tuple(image.shape)))
    for group in groups.values():
        yield _joined(group)


def _view(
    image: np.ndarray, long_side: int | None, fixed: tuple[int, int] | None, steps: tuple[int, int]
) -> tuple[int, int]:
    """Height and width that an image (H,W,3) is looked at in."""
    height, width = image.shape[:2]
    if fixed is not None:
        return fixed
    factor = 1 if long_side is None else long_side / max(height, width)
    return nearest(round(height * factor), steps[0]), nearest(round(width * factor), steps[1])


def _joined(group: list[tuple[int, Tensor]]) -> tuple[list[int], Tensor]:
    return [index for index, _ in group], torch.stack([image for _, image in group])


def _channels_first(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
