"""What is kept of each scored image: true positives, predicted and true pixels of the classes it holds."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xseg.scores.confusion import Counts, Ints


@dataclass(frozen=True)
class ImageCounts:
    """Pixel counts of one image, only for classes that are true or predicted somewhere in it.

    Attributes:
        class_id: (R,) int32, 0 the background.
        true_positive: (S, R) pixels rightly predicted; S is 1 for masks, the number of thresholds for maps.
        predicted: (S, R) pixels predicted, among those of known truth.
        truth: (R,) pixels of the class in the truth.
    """

    class_id: npt.NDArray[np.int32]
    true_positive: Ints
    predicted: Ints
    truth: Ints


def compact(class_id: Ints, true_positive: Ints, predicted: Ints, truth: Ints) -> ImageCounts:
    """Drop the classes that an image neither holds nor predicts, and store in 32 bits where they suffice."""
    kept = (truth > 0) | (predicted > 0).any(axis=0)
    # an image of 2^31 pixels would not fit int32; sums over images are always made in int64
    kind = np.int32 if truth.sum() < 2**31 else np.int64
    return ImageCounts(
        class_id[kept].astype(np.int32),
        true_positive[:, kept].astype(kind),
        predicted[:, kept].astype(kind),
        truth[kept].astype(kind),
    )


def mask_counts(confusion: Counts) -> ImageCounts:
    """Counts of one image from its (L, L + 1) confusion matrix; unknown predictions only add to the truth."""
    labels = confusion.shape[0]
    predicted = confusion[:, :labels].sum(axis=0)
    return compact(np.arange(labels), confusion.diagonal()[None], predicted[None], confusion.sum(axis=1))


@dataclass(frozen=True)
class CountTable:
    """Counts of a whole set at one threshold, sparse: one row per image and class, ordered by class then image.

    Attributes:
        images: names, sorted; the order that bootstrap draws refer to.
        labels: number of class ids, background included.
        image: (M,) int64 index into `images`.
        class_id: (M,) int64.
        counts: (M, 3) int64: true positives, predicted, truth.
    """

    images: tuple[str, ...]
    labels: int
    image: Counts
    class_id: Counts
    counts: Counts

    def dense(self) -> Counts:
        """The same as (N, labels, 3) int64."""
        out = np.zeros((len(self.images), self.labels, 3), np.int64)
        out[self.image, self.class_id] = self.counts
        return out

    def totals(self) -> Counts:
        """Sums over images: (labels, 3) int64."""
        out = np.zeros((self.labels, 3), np.int64)
        np.add.at(out, self.class_id, self.counts)
        return out


def count_table(images: Mapping[str, ImageCounts], labels: int, setting: int) -> CountTable:
    """Rows of every image at threshold number `setting`, in an order that does not depend on how they came."""
    names = tuple(sorted(images))
    parts = [images[name] for name in names]
    lengths = [len(part.class_id) for part in parts]
    image = np.repeat(np.arange(len(names)), lengths)
    empty = [np.zeros((0,), np.int64)]
    class_id = np.concatenate([part.class_id for part in parts] or empty).astype(np.int64)
    columns = [
        np.concatenate(column or empty).astype(np.int64)
        for column in (
            [part.true_positive[setting] for part in parts],
            [part.predicted[setting] for part in parts],
            [part.truth for part in parts],
        )
    ]
    order = np.lexsort((image, class_id))
    return CountTable(names, labels, image[order], class_id[order], np.stack(columns, axis=1)[order])


def curve_totals(images: Mapping[str, ImageCounts], labels: int, settings: int) -> tuple[Counts, Counts, Counts]:
    """Sums over images at every threshold: true positives (S, L), predicted (S, L), truth (L,), all int64."""
    true_positive = np.zeros((settings, labels), np.int64)
    predicted = np.zeros((settings, labels), np.int64)
    truth = np.zeros(labels, np.int64)
    for part in images.values():
        true_positive[:, part.class_id] += part.true_positive
        predicted[:, part.class_id] += part.predicted
        truth[part.class_id] += part.truth
    return true_positive, predicted, truth
