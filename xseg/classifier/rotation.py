"""Learning without labels by telling how far an image was turned (RotNet; Gidaris et al. 2018, arXiv:1803.07728)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from xseg.classifier.model import Classifier
from xseg.classifier.validation import ask_all
from xseg.datasets import Dataset
from xseg.datasets.index import Item
from xseg.datasets.transforms import zero_padding
from xseg.training.loop import Batch, Terms
from xseg.training.together import Together

#: Quarter turns against the clock, in the order of the logits.
ROTATIONS = ("0 degrees", "90 degrees", "180 degrees", "270 degrees")


class RotationTask:
    """A `Task`: every crop is seen in all four rotations, and each has to be recognised.

    Args:
        classifier: what is trained, with four logits, on its device.
        batches: iterator over the batches of a range of steps, of square crops.
        smoothing: label smoothing.
    """

    def __init__(self, classifier: Classifier, batches: Callable[[range], Iterator[Batch]], smoothing: float) -> None:
        self._classifier, self.batches, self._smoothing = classifier, batches, smoothing

    @property
    def module(self) -> nn.Module:
        """The network itself, so that checkpoints have its own keys."""
        return self._classifier.net

    def loss(self, batch: Batch, step: int, total: Terms | None = None) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Mean cross-entropy over the four rotations of `images` (N,3,s,s) uint8 with `valid` (N,4) boxes.

        Returns:
            The loss, and the share of rotations that were recognised as `accuracy`.
        """
        images = zero_padding(self._classifier.normalise(batch["images"]), batch["valid"])
        turned, target = rotations(images)
        logits = self._classifier(turned.contiguous(memory_format=self._classifier.layout)).float()
        loss = functional.cross_entropy(logits, target, label_smoothing=self._smoothing)
        right = (logits.argmax(1) == target).float().mean()
        share = 1.0 if total is None else self.terms(batch)["images"] / max(total["images"], 1.0)
        return loss * share, {"accuracy": right * share}

    def terms(self, batch: Batch) -> Terms:
        """Number of images, each of which is seen four times."""
        return {"images": float(len(batch["images"]))}


def rotations(images: Tensor) -> tuple[Tensor, Tensor]:
    """Square images (N,...,s,s) turned by 0 to 3 quarters, (4N,...,s,s), and by how many (4N,)."""
    turned = torch.cat([torch.rot90(images, quarters, (-2, -1)) for quarters in range(4)])
    return turned, torch.arange(4, device=images.device).repeat_interleave(len(images))


class _Squares(Dataset):
    """A data set whose images are their central squares, without labels."""

    def read_image(self, item: Item) -> np.ndarray:
        image = super().read_image(item)
        height, width = image.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return image[top : top + side, left : left + side]


def squares(dataset: Dataset) -> Dataset:
    """The central squares of the images: the shape of a photograph must not tell how it was turned."""
    given = {field.name: getattr(dataset, field.name) for field in fields(Dataset)}
    items = tuple(replace(item, labels=None) for item in dataset.items)
    return _Squares(**{**given, "items": items, "classes": ROTATIONS})


@dataclass(frozen=True)
class Accuracy:
    """How often rotations are recognised.

    Args:
        per_rotation: (4,) float64 in [0, 1].
        images: number of images, each of which was seen four times.
    """

    per_rotation: np.ndarray
    images: int

    @property
    def mean(self) -> float:
        """Share of all that were recognised."""
        return float(self.per_rotation.mean())


def validate_rotations(
    dataset: Dataset,
    classifier: Classifier,
    *,
    device: torch.device,
    long_side: int | None,
    batch_size: int = 16,
    workers: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
    group: Together | None = None,
) -> Accuracy:
    """How often the rotations of whole squares are recognised; the arguments are those of `validate`.

    Raises:
        Stopped: `should_stop` said so.
    """
    data = squares(dataset)

    def recognised(images: Tensor) -> Tensor:
        turned, target = rotations(images)
        return (classifier(turned).argmax(1) == target).view(4, -1).T

    right = ask_all(
        data, classifier, recognised, 4, device=device, long_side=long_side, batch_size=batch_size, workers=workers,
        should_stop=should_stop, group=group,
    )  # fmt: skip
    return Accuracy(right.sum(0, dtype=np.float64) / max(len(right), 1), len(right))
