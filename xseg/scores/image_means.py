"""Numbers of single images, averaged over a set with bootstrap intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xseg.errors import BadInput
from xseg.scores.bootstrap import draws, interval
from xseg.scores.overlap import Floats, mean_over_classes


class ImageMeans:
    """Collects a few numbers per image; their order, and how they are split over shards, does not matter.

    Args:
        names: of the numbers.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._images: dict[str, list[float]] = {}

    def __len__(self) -> int:
        return len(self._images)

    def add(self, image: str, values: Mapping[str, float | None]) -> None:
        """Numbers of one image by name; None where it has none.

        Raises:
            BadInput: an image that is there already.
        """
        if image in self._images:
            raise BadInput(f"image {image} was scored twice", "give each image once")
        numbers = [values[name] for name in self.names]
        self._images[image] = [np.nan if number is None else number for number in numbers]

    def minus(self, other: "ImageMeans") -> "ImageMeans":
        """Differences image by image, on the images that both have: their summary is that of a paired comparison.

        Raises:
            ValueError: other names.
        """
        if self.names != other.names:
            raise ValueError(f"numbers {self.names} minus numbers {other.names}, needed the same")
        found = ImageMeans(self.names)
        for image in self._images.keys() & other._images.keys():
            pairs = zip(self._images[image], other._images[image], strict=True)
            found._images[image] = [mine - theirs for mine, theirs in pairs]
        return found

    def summary(self, replicates: int, seed: int) -> dict[str, Any]:
        """Of every name its mean over the images that have it, and the 95 % interval of that mean.

        Args:
            replicates: resamples of the images, the same for all names.
            seed: of the resampling.

        Returns:
            `{name: mean, name_interval: [low, high]}`, None where no image has the number.
        """
        table = np.array([self._images[image] for image in sorted(self._images)]).reshape(-1, len(self.names))
        once = _weighted(table, np.ones((1, len(table))))[0]
        resampled = [_weighted(table, weights) for weights in draws(len(table), replicates if len(table) else 0, seed)]
        spread = np.concatenate(resampled or [np.zeros((0, len(self.names)))])
        found: dict[str, Any] = {}
        for name, mean, values in zip(self.names, once, spread.T, strict=True):
            limits = interval(values)
            found[name] = None if np.isnan(mean) else float(mean)
            found[f"{name}_interval"] = None if limits is None else list(limits)
        return found


def mean_of(values: Floats) -> float | None:
    """Mean of the numbers that are not NaN; None where there is none."""
    mean = float(mean_over_classes(values.ravel()))
    return None if np.isnan(mean) else mean


def _weighted(table: Floats, weights: Floats) -> Floats:
    """Means (B,M) of a table (N,M) with its rows counted `weights` (B,N) times, NaN left out."""
    known = ~np.isnan(table)
    count = weights @ known.astype(np.float64)
    total = weights @ np.where(known, table, 0.0)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
