"""The perturbation protocol: how fast the classifier loses an image while pixels go in the order of a heatmap.

Published code and what it really computes: Gur, Ali and Wolf 2021 (AGF) and Chefer, Gur and Wolf 2021,
`pertubation_eval_from_hdf5.py`. Insertion and deletion: Petsiuk et al. 2018, RISE, arXiv:1806.07421. ROAD: Rong et al.
2022, arXiv:2202.00449.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from xseg.scores.image_means import ImageMeans

Fill = Literal["black", "mean", "blur", "road", "window"]
Against = Literal["labels", "predicted"]

CUTS = tuple(tenths / 10 for tenths in range(1, 10))
CURVES = ("positive", "negative", "insertion", "deletion", "road-morf", "road-lerf")


@dataclass(frozen=True)
class Curve:
    """One way to take an image apart.

    Attributes:
        name: one of `CURVES`.
        shares: of the pixels that are changed at each point, ascending from 0.
        fill: what is in the place of a hidden pixel.
        least_first: start with the least relevant pixel.
        inserts: the image starts hidden, and the changed pixels are those shown.
        scores: what is averaged over images: `hits`, whether the classifier is right, or the class's `probability`.
    """

    name: str
    shares: tuple[float, ...]
    fill: Fill
    least_first: bool = False
    inserts: bool = False
    scores: Literal["hits", "probability"] = "hits"

    def hidden(self, ranks: npt.NDArray[np.int32], point: int) -> npt.NDArray[np.bool_]:
        """Which pixels are hidden at a point, from ranks (H,W) in this curve's order."""
        changed = ranks < pixels_of(self.shares[point], ranks.size)
        return ~changed if self.inserts else changed

    def is_intact(self, point: int) -> bool:
        """Whether nothing is hidden at a point."""
        return self.shares[point] == float(self.inserts)

    def is_gone(self, point: int) -> bool:
        """Whether everything is hidden at a point."""
        return self.shares[point] == float(not self.inserts)


def curve_named(name: str, fill: Fill = "black", steps: int = 224) -> Curve:
    """The curve of a name.

    Args:
        name: `positive` and `negative`: shares 0, 0.1 .. 0.9. `road-morf` (most relevant first) and `road-lerf`: the
            same shares, imputed. `insertion` and `deletion`: shares 0, 1/steps .. 1; RISE inserts into the blurred
            image and deletes to the mean colour.
        fill: of `positive` and `negative`.
        steps: of `insertion` and `deletion`; RISE's 224 of a 224 x 224 image are 224 pixels each.
    """
    if name in ("insertion", "deletion"):
        every = tuple(k / steps for k in range(steps + 1))
        inserts = name == "insertion"
        return Curve(name, every, "window" if inserts else "mean", inserts=inserts, scores="probability")
    kept: Fill = "road" if name.startswith("road") else fill
    return Curve(name, (0.0, *CUTS), kept, least_first=name in ("negative", "road-lerf"))


def pixels_of(share: float, pixels: int) -> int:
    """Number of pixels in a share of them, rounded down as in the published code: 0.3 of 50176 are 15052.

    Multiples of 1/steps that are whole numbers of pixels stay so: a product that misses one by rounding is that one.
    """
    return int(pixels * share + 1e-9)


def ranks(relevance: npt.NDArray[np.float32], least_first: bool = False) -> npt.NDArray[np.int32]:
    """Place of every pixel in the order of removal.

    Pixels of equal relevance go in the order of reading (row by row from the upper left), in both directions, as the
    published code has it on a GPU; so the order depends on nothing but the map.

    Args:
        relevance: (H,W), finite.
        least_first: ascending relevance; else descending.

    Returns:
        (H,W) int32, 0 for the pixel that goes first.
    """
    values = relevance.ravel() if least_first else -relevance.ravel()
    place = np.empty(values.size, np.int32)
    place[np.argsort(values, kind="stable")] = np.arange(values.size, dtype=np.int32)
    return place.reshape(relevance.shape)


def tie_fraction(relevance: npt.NDArray[np.float32]) -> float:
    """How much of the order is arbitrary: the share of pixels that a cut at 0.1 .. 0.9 takes apart although they tie.

    At each cut, the pixels that have the same value as both the last removed and the first kept one, as a share of all;
    0 where these two differ. The mean over the nine cuts: 1 for a constant map, 0 where every cut is clean.
    """
    ordered = np.sort(relevance.ravel())
    found = []
    for share in CUTS:
        cut = ordered.size - pixels_of(share, ordered.size)
        tied = 0 < cut < ordered.size and ordered[cut - 1] == ordered[cut]
        first, last = (np.searchsorted(ordered, ordered[cut], side) for side in ("left", "right")) if tied else (0, 0)
        found.append((last - first) / ordered.size)
    return float(np.mean(found))


def area(scores: Sequence[float], shares: Sequence[float]) -> float:
    """Area under a curve by trapezoids.

    Over shares 0, 0.1 .. 0.9 it is the published number (as a fraction; the papers print percent): the unperturbed
    score is a point, and nothing is divided by 0.9, so that 0.9 is the most there is.
    """
    heights, places = np.asarray(scores, np.float64), np.asarray(shares, np.float64)
    return float(np.sum((heights[1:] + heights[:-1]) / 2 * np.diff(places)))


def hits(
    logits: npt.NDArray[np.float32],
    activation: Literal["sigmoid", "softmax"],
    wanted: npt.NDArray[np.bool_],
    class_id: int,
) -> npt.NDArray[np.bool_]:
    """Whether the classifier is right about each copy of an image.

    Args:
        logits: (N,C).
        activation: with a softmax the most probable class must be a wanted one, whichever class the map is about (the
            published score). With sigmoids, where several classes are decided each by itself, the decision about the
            map's class must be right: above 0.5 if it is wanted, else not. A map about no class is judged by the
            most probable class with either.
        wanted: (C,) the classes that count as right.
        class_id: 1..C of the map; -1 for a map about no class.
    """
    if activation == "softmax" or class_id < 1:
        return wanted[logits.argmax(1)]
    return (logits[:, class_id - 1] > 0) == wanted[class_id - 1]


def can_judge(
    labels: npt.NDArray[np.uint8], activation: Literal["sigmoid", "softmax"], class_id: npt.NDArray[np.int32]
) -> bool:
    """Whether labels say what is right.

    Args:
        labels: (C,) 1 present, 0 absent, 255 unknown, as are classes that the data set does not have.
        activation: a softmax needs one present class, or the absence of all; sigmoids the classes of the maps.
        class_id: (K,) of the maps.
    """
    if activation == "sigmoid" and (class_id > 0).all():
        return bool((labels[class_id - 1] <= 1).all())
    return bool((labels == 1).any() or (labels == 0).all())


@dataclass(frozen=True)
class Readings:
    """What the copies of one image said about one class.

    Attributes:
        hits: curve -> (S,) 0 or 1 at each point.
        probability: curve -> (S,) of the map's class.
        ties: `tie_fraction` of the map.
    """

    hits: dict[str, npt.NDArray[np.float64]]
    probability: dict[str, npt.NDArray[np.float64]]
    ties: float

    def to_json(self) -> dict[str, Any]:
        """The same in lists."""
        curves = {"hits": self.hits, "probability": self.probability}
        lists = {name: {curve: values.tolist() for curve, values in found.items()} for name, found in curves.items()}
        return {**lists, "ties": self.ties}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What `to_json` gave, to the bit."""
        hits, probability = (
            {curve: np.array(values) for curve, values in found[name].items()} for name in ("hits", "probability")
        )
        return cls(hits, probability, found["ties"])


class PerturbationScore:
    """Curves and areas averaged over the maps of an image, then over images.

    Args:
        curves: as measured.
    """

    def __init__(self, curves: Sequence[Curve]) -> None:
        self._curves = tuple(curves)
        names = [f"{key}_{curve.name}" for curve in self._curves for key in ("auc", "auc_normalised")]
        names += [f"probability_auc_{curve.name}" for curve in self._curves if curve.scores == "hits"]
        paired = {"road-morf", "road-lerf"} <= {curve.name for curve in self._curves}
        self._means = ImageMeans([*names, *(["road_difference"] if paired else []), "tie_fraction"])
        self._points = {
            (kind, curve.name): ImageMeans([str(k) for k in range(len(curve.shares))])
            for curve in self._curves
            for kind in ("hits", "probability")
        }
        self.maps = 0

    def __len__(self) -> int:
        return len(self._means)

    def add(self, image: str, readings: Sequence[Readings]) -> None:
        """The readings of every map of one image.

        Raises:
            BadInput: an image that is there already.
        """
        values: dict[str, float | None] = {"tie_fraction": float(np.mean([one.ties for one in readings]))}
        for curve in self._curves:
            means = {
                "hits": np.mean([one.hits[curve.name] for one in readings], axis=0),
                "probability": np.mean([one.probability[curve.name] for one in readings], axis=0),
            }
            for kind, points in means.items():
                self._points[kind, curve.name].add(image, {str(k): float(point) for k, point in enumerate(points)})
            found = area(means[curve.scores], curve.shares)
            values[f"auc_{curve.name}"] = found
            values[f"auc_normalised_{curve.name}"] = found / (curve.shares[-1] - curve.shares[0])
            values[f"probability_auc_{curve.name}"] = area(means["probability"], curve.shares)
            if curve.name.startswith("road"):
                values[curve.name] = float(means["probability"][1:].mean())
        if "road_difference" in self._means.names:
            values["road_difference"] = (_number(values["road-lerf"]) - _number(values["road-morf"])) / 2
        self._means.add(image, values)
        self.maps += len(readings)

    def result(self, replicates: int, seed: int) -> dict[str, Any]:
        """The JSON-able part of a run: areas with intervals, and the curves point by point with theirs."""
        found: dict[str, Any] = {"steps": {curve.name: list(curve.shares) for curve in self._curves}}
        main = {curve.name: curve.scores for curve in self._curves}
        for key, kinds in (
            ("curves", main),
            ("probability_curves", {name: "probability" for name, kind in main.items() if kind == "hits"}),
        ):
            found[key], found[f"{key}_intervals"] = {}, {}
            for name, kind in kinds.items():
                points = self._points[kind, name]
                summary = points.summary(replicates, seed)
                found[key][name] = [summary[point] for point in points.names]
                found[f"{key}_intervals"][name] = [summary[f"{point}_interval"] for point in points.names]
        return {**found, **self._means.summary(replicates, seed)}

    def compared_with(self, other: "PerturbationScore", replicates: int, seed: int) -> dict[str, Any]:
        """This minus `other` on the images that both have, the same images drawn for both in every resample."""
        difference = self._means.minus(other._means)
        return {"images": len(difference), **difference.summary(replicates, seed)}


def _number(value: float | None) -> float:
    return np.nan if value is None else value
