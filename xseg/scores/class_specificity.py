"""The class-specificity protocol: do the maps of two classes in one image differ, and does each find its own class?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xseg.errors import NothingScored
from xseg.scores.confusion import Ints, ignore_value
from xseg.scores.correlation import pearson, ranks
from xseg.scores.image_means import ImageMeans, mean_of
from xseg.scores.overlap import Floats
from xseg.scores.sweep import Maps, foreground_maps

MEASURES = ("pearson", "spearman", "own_share", "other_share", "share_difference", "own_fraction", "own_above_other")
FLOOR = ("own_share", "other_share", "own_fraction", "own_above_other")


@dataclass(frozen=True)
class Specificity:
    """One image with maps of K >= 2 classes that its mask holds.

    Attributes:
        pairs: ordered pairs (own, other) of classes, K * (K - 1).
        measures: means over the pairs by name; None where no pair has the number.
        floor: the same of a map that is the same everywhere.
        empty_maps: maps without positive energy where the truth is known.
        undefined_correlations: pairs of which a map is constant.
        undefined_fractions: pairs whose map has positive energy, but in neither mask.
    """

    pairs: int
    measures: dict[str, float | None]
    floor: dict[str, float | None]
    empty_maps: int
    undefined_correlations: int
    undefined_fractions: int


def specificity(maps: Maps, class_id: Ints, truth: Ints, ignore: int = 255) -> Specificity | None:
    """Compare the maps of one image's classes with each other and with their masks.

    Of every ordered pair (own, other) of classes that have both a map and pixels in the truth: the correlations of the
    two maps over all pixels; the shares of the own map's positive values inside the own and inside the other class's
    mask, of all its positive values where the truth is known; their difference; own / (own + other); and whether own is
    the larger. All sums are float64.

    Args:
        maps: (K,H,W) floats, finite; multiplying one by a positive number changes nothing.
        class_id: (K,) ids 1..C, all different.
        truth: (H,W) class ids, 0 the background, `ignore` where unknown.
        ignore: the label that means unknown.

    Returns:
        None with fewer than two such classes.
    """
    kept = [k for k, name in enumerate(class_id) if (truth == name).any()]
    if len(kept) < 2:
        return None
    known = truth != ignore
    masks = np.stack([truth == class_id[k] for k in kept]).astype(np.float64)
    positive = np.stack([np.where(known, maps[k], 0).clip(0) for k in kept]).astype(np.float64)
    energy = positive.sum(axis=(1, 2))
    linear, by_rank = _correlations(np.stack([maps[k] for k in kept]))
    shares = _shares(positive, masks)
    areas = _shares(known[None].astype(np.float64), masks)[[0] * len(kept)]
    pairs = ~np.eye(len(kept), dtype=bool)
    measures = {"pearson": mean_of(linear[pairs]), "spearman": mean_of(by_rank[pairs]), **_means(shares)}
    without_energy = (energy == 0)[:, None] & pairs
    return Specificity(
        pairs=int(pairs.sum()),
        measures=measures,
        floor={name: _means(areas)[name] for name in FLOOR},
        empty_maps=int((energy == 0).sum()),
        undefined_correlations=int(np.isnan(linear[pairs]).sum()),
        undefined_fractions=int(np.isnan(_fractions(shares)[pairs & ~without_energy]).sum()),
    )


def _correlations(maps: Maps) -> tuple[Floats, Floats]:
    """Pearson's and Spearman's of every two of (K,H,W) maps: (K,K) each, NaN where there is none."""
    linear, by_rank = np.full((2, len(maps), len(maps)), np.nan)
    order = [ranks(one) for one in maps]
    for i in range(len(maps)):
        for j in range(i):
            for table, values in ((linear, maps), (by_rank, order)):
                found = pearson(values[i], values[j])
                table[i, j] = table[j, i] = np.nan if found is None else found
    return linear, by_rank


def _shares(positive: Floats, masks: Floats) -> Floats:
    """Share of each of K maps inside each of J masks: (K,J), NaN for maps that are 0."""
    inside = positive.reshape(len(positive), -1) @ masks.reshape(len(masks), -1).T
    total = positive.sum(axis=(1, 2))[:, None]
    return np.divide(inside, total, out=np.full(inside.shape, np.nan), where=total > 0)


def _fractions(shares: Floats) -> Floats:
    own = np.diagonal(shares)[:, None]
    both = own + shares
    return np.divide(own, both, out=np.full(shares.shape, np.nan), where=both > 0)


def _means(shares: Floats) -> dict[str, float | None]:
    """Means over ordered pairs of what follows from (K,K) shares."""
    pairs = ~np.eye(len(shares), dtype=bool)
    own = np.broadcast_to(np.diagonal(shares)[:, None], shares.shape)
    above = np.where(np.isnan(own), np.nan, own > shares)
    found = (own, shares, own - shares, _fractions(shares), above)
    return {name: mean_of(values[pairs]) for name, values in zip(MEASURES[2:], found, strict=True)}


class SpecificityScore:
    """Collects images one by one, in any order.

    Args:
        classes: foreground class names, ids 1..C.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._labels, self._ignore = len(self.classes) + 1, ignore_value(len(self.classes))
        self._means, self._floors = ImageMeans(MEASURES), ImageMeans(FLOOR)
        self._counts = dict.fromkeys(
            ("pairs", "empty_maps", "undefined_correlations", "undefined_fractions", "maps_of_absent_classes"), 0
        )
        self._others = 0

    def add(self, maps: Maps, class_id: Ints, truth: Ints, *, image: str) -> None:
        """One image.

        Args:
            maps: (K,H,W) floats.
            class_id: (K,) ids; a map of the background (0) is left out.
            truth: (H,W) class ids, 255 (65535 above 254 classes) where unknown.
            image: its id.

        Raises:
            BadInput: sizes differ, an id or label out of range, values that are not finite, or an image scored twice.
        """
        maps, ids = foreground_maps(maps, class_id, truth, self._labels, self._ignore)
        found = specificity(maps, ids, truth, self._ignore)
        if found is None:
            self._others += 1
            return
        self._means.add(image, found.measures)
        self._floors.add(image, found.floor)
        self._counts["maps_of_absent_classes"] += len(ids) - len(np.intersect1d(ids, truth))
        for name in self._counts.keys() - {"maps_of_absent_classes"}:
            self._counts[name] += getattr(found, name)

    def result(self, *, replicates: int = 1000, seed: int = 0) -> dict[str, Any]:
        """Counts, the means over images with their 95 % intervals, and the floor, JSON-able.

        Raises:
            BadInput: no image has two classes to compare.
        """
        if not len(self._means):
            raise NothingScored(
                "no image has maps of two classes that are both in its mask",
                "score a split with several classes per image; explain it with --targets labels",
            )
        floor = self._floors.summary(0, seed)
        return {
            "images": len(self._means),
            "images_with_fewer_classes": self._others,
            **self._counts,
            **self._means.summary(replicates, seed),
            "uniform_map": {name: floor[name] for name in FLOOR},
        }
