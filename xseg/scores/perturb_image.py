"""One image taken apart pixel by pixel in the network's input frame, and what the classifier says on the way."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from xseg.classifier.model import Classifier
from xseg.device import halving
from xseg.heatmaps.baselines import baseline_images
from xseg.heatmaps.batches import device_of, stack
from xseg.heatmaps.layers import evaluating
from xseg.heatmaps.views import resize_images
from xseg.scores.perturbation import Against, Curve, Readings, hits, ranks, tie_fraction
from xseg.scores.road import NOISE, impute
from xseg.seeding import generator

_BLUR_WINDOW, _BLUR_SIGMA = 11, 5.0  # of RISE's published evaluation


@dataclass(frozen=True)
class Subject:
    """An image to take apart.

    Attributes:
        key: what its clean logits and its noise are known by: its id and the digest of its file.
        image: (H,W,3) uint8.
        maps: (K,h,w) relevance on a grid over the image; only the order of the values counts.
        class_id: (K,) 1..C, or -1 for a map about no class.
        labels: (C,) uint8 1 present, 0 absent; None where only predictions count.
    """

    key: tuple[str, ...]
    image: np.ndarray
    maps: np.ndarray
    class_id: np.ndarray
    labels: np.ndarray | None


@dataclass(frozen=True)
class _Copy:
    """One copy still to be looked at: `order` (H,W) ranks, at a point of a curve, for the map number `unit`."""

    unit: int
    curve: Curve
    point: int
    order: npt.NDArray[np.int32]


class Perturbation:
    """Runs the copies of images through a classifier.

    Logits of an intact image, and of one that is wholly hidden, are asked for once, whatever the number of maps, curves
    and runs; so are those of the picture that is all mean colour.

    Args:
        classifier: in evaluation mode, on the device where the work is to be done.
        curves: to measure.
        frame: (height, width) at which images are looked at; their aspect ratio is given up.
        batch_size: copies in one forward pass.
        seed: of ROAD's noise.
    """

    def __init__(
        self,
        classifier: Classifier,
        curves: Sequence[Curve],
        frame: tuple[int, int],
        batch_size: int = 1,
        seed: int = 0,
    ) -> None:
        self._classifier, self._curves, self._frame = classifier, tuple(curves), frame
        self._batch_size, self._seed = batch_size, seed
        self._known: dict[tuple[str, ...], npt.NDArray[np.float32]] = {}

    def predicted(self, subject: Subject) -> npt.NDArray[np.bool_]:
        """The classes (C,) that the classifier finds in the intact image: the most probable one, or all above 0.5.

        Raises:
            Unavailable: the device's memory does not hold one copy.
        """
        with evaluating(self._classifier), torch.no_grad():
            clean = self._asked(_Copies(self._classifier, subject, self._frame, self._seed), "clean")
        return self._found(clean)

    def readings(self, subject: Subject, against: Against) -> list[Readings]:
        """What the copies say about each of the K maps.

        Raises:
            Unavailable: the device's memory does not hold one copy.
        """
        relevance = [frame_map(one, self._frame) for one in subject.maps]
        with evaluating(self._classifier), torch.no_grad():
            copies = _Copies(self._classifier, subject, self._frame, self._seed)
            clean = self._asked(copies, "clean")
            table = {(k, curve.name, s): row for k, curve, s, row in self._ends(copies, len(relevance), clean)}
            table |= self._between(copies, relevance)
        wanted = self._wanted(subject, against, clean)
        named = [int(one) if one > 0 else -1 for one in subject.class_id]
        return [
            self._reading(
                {
                    curve.name: np.stack([table[k, curve.name, s] for s in range(len(curve.shares))])
                    for curve in self._curves
                },
                wanted,
                named[k],
                int(clean.argmax()) + 1,
                tie_fraction(relevance[k]),
            )
            for k in range(len(relevance))
        ]

    def _wanted(self, subject: Subject, against: Against, clean: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """The classes (C,) that count as right."""
        if against == "labels":
            if subject.labels is None:
                raise ValueError("scores against labels need labels")
            return subject.labels == 1
        return self._found(clean)

    def _found(self, clean: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        if self._classifier.config.activation == "softmax":
            return np.arange(len(clean)) == clean.argmax()
        return clean > 0

    def _reading(
        self,
        logits: dict[str, npt.NDArray[np.float32]],
        wanted: npt.NDArray[np.bool_],
        class_id: int,
        top: int,
        ties: float,
    ) -> Readings:
        activation = self._classifier.config.activation
        column = (class_id if class_id > 0 else top) - 1
        right, probability = {}, {}
        for name, rows in logits.items():
            right[name] = hits(rows, activation, wanted, class_id).astype(np.float64)
            chances = self._classifier.probabilities(torch.from_numpy(rows).double())
            probability[name] = chances[:, column].numpy()
        return Readings(right, probability, ties)

    def _ends(
        self, copies: "_Copies", units: int, clean: npt.NDArray[np.float32]
    ) -> Iterator[tuple[int, Curve, int, npt.NDArray[np.float32]]]:
        """The points that are the same for all maps."""
        for curve in self._curves:
            for point in range(len(curve.shares)):
                if curve.is_intact(point):
                    row = clean
                elif curve.is_gone(point):
                    row = self._asked(copies, curve.fill)
                else:
                    continue
                for unit in range(units):
                    yield unit, curve, point, row

    def _between(
        self, copies: "_Copies", relevance: Sequence[npt.NDArray[np.float32]]
    ) -> dict[tuple[int, str, int], npt.NDArray[np.float32]]:
        """All other points, `batch_size` at a time."""
        waiting, found = [], {}
        for unit, one in enumerate(relevance):
            order = {least: ranks(one, least) for least in {curve.least_first for curve in self._curves}}
            for curve in self._curves:
                points = (s for s in range(len(curve.shares)) if not (curve.is_intact(s) or curve.is_gone(s)))
                waiting += [_Copy(unit, curve, s, order[curve.least_first]) for s in points]
        for start in range(0, len(waiting), self._batch_size):
            chunk = waiting[start : start + self._batch_size]
            rows = halving(lambda some: list(self._logits(copies.make(some))), chunk)
            found.update({(one.unit, one.curve.name, one.point): row for one, row in zip(chunk, rows, strict=True)})
        return found

    def _asked(self, copies: "_Copies", what: str) -> npt.NDArray[np.float32]:
        """Logits (C,) of the image as it is (`clean`) or wholly filled, asked for once."""
        key = (what,) if what in ("mean", "black") else (what, *copies.key)  # one picture for all images
        if key not in self._known:
            picture = copies.clean if what == "clean" else copies.fill(what)
            (self._known[key],) = halving(lambda some: list(self._logits(torch.cat(list(some)))), [picture])
        return self._known[key]

    def _logits(self, pictures: Tensor) -> npt.NDArray[np.float32]:
        return self._classifier(pictures).float().cpu().numpy()


class _Copies:
    """Makes the copies of one image.

    Attributes:
        key: of the image.
        clean: (1,3,H,W) normalised, in the frame.
    """

    def __init__(self, classifier: Classifier, subject: Subject, frame: tuple[int, int], seed: int) -> None:
        self.key, self._seed = subject.key, seed
        self._classifier = classifier
        self._pixels = resize_images(stack([subject.image]).to(device_of(classifier)), frame)
        self.clean = classifier.normalise(self._pixels)
        self._fills: dict[str, Tensor] = {}

    def fill(self, name: str) -> Tensor:
        """What is in the place of hidden pixels: (1,3,H,W) normalised."""
        if name not in self._fills:
            if name == "window":
                self._fills[name] = window_blur(self.clean)
            else:
                known = {"mean": "zero"}.get(name, name)  # 0 after normalisation is the mean of the training images
                self._fills[name] = baseline_images(self._classifier, self.clean, known)
        return self._fills[name]

    def make(self, wanted: Sequence[_Copy]) -> Tensor:
        """The copies asked for: (N,3,H,W) normalised."""
        hidden = torch.from_numpy(np.stack([one.curve.hidden(one.order, one.point) for one in wanted]))
        hidden = hidden.to(self.clean.device)
        plain = [k for k, one in enumerate(wanted) if one.curve.fill != "road"]
        imputed = [k for k, one in enumerate(wanted) if one.curve.fill == "road"]
        found = self.clean.new_empty(len(wanted), *self.clean.shape[1:])
        for k in plain:
            torch.where(hidden[k], self.fill(wanted[k].curve.fill), self.clean, out=found[k : k + 1])
        if imputed:
            noise = torch.stack([self._noise(wanted[k].point) for k in imputed])
            pixels = self._pixels.expand(len(imputed), -1, -1, -1)
            found[imputed] = self._classifier.normalise(impute(pixels, hidden[imputed], noise))
        return found

    def _noise(self, point: int) -> Tensor:
        """Noise (3,H,W) keyed by the image and the point alone, so that all methods and both orders meet the same."""
        random = generator(self._seed, "road", *self.key, point)
        return torch.from_numpy(random.standard_normal(self.clean.shape[1:], np.float32) * np.float32(NOISE))


def frame_map(relevance: np.ndarray, frame: tuple[int, int]) -> npt.NDArray[np.float32]:
    """A map (h,w) on the pixels of the frame: bilinear, averaging where it shrinks.

    In float64, and then rounded: pixels that are equal stay equal, which float32 would not grant.

    Returns:
        (H,W) float32.
    """
    values = torch.from_numpy(np.ascontiguousarray(relevance)).double()
    if tuple(values.shape) != frame:
        values = functional.interpolate(
            values[None, None], frame, mode="bilinear", align_corners=False, antialias=True
        )[0, 0]
    return values.numpy().astype(np.float32)


def window_blur(images: Tensor) -> Tensor:
    """The blurred image that RISE inserts pixels into: 11 x 11 pixels, sigma 5.

    The published kernel is what a Gaussian filter makes of a single 1 in the middle of an 11 x 11 array, mirrored at
    its border: the tails are folded back, and it is nearly flat. Beyond the image are zeros.

    Args:
        images: (N,C,H,W) normalised float.

    Returns:
        (N,C,H,W) in the dtype of `images`.
    """
    half = _BLUR_WINDOW // 2
    reach = int(4 * _BLUR_SIGMA + 0.5)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    bell = torch.exp(-0.5 * (offsets / _BLUR_SIGMA) ** 2)
    place = (offsets.long() + half) % (2 * _BLUR_WINDOW)
    place = torch.minimum(place, 2 * _BLUR_WINDOW - 1 - place)  # mirrored, the outer value repeated
    kernel = torch.zeros(_BLUR_WINDOW, dtype=torch.float64).index_add_(0, place, bell / bell.sum()).to(images)
    channels = images.shape[1]
    down = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    blurred = functional.conv2d(images, down, padding=(half, 0), groups=channels)
    return functional.conv2d(blurred, down.transpose(2, 3), padding=(0, half), groups=channels)
