"""What the classifier loses when parts of the picture are hidden; no gradients."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.errors import UsageError
from xseg.heatmaps.baselines import Baseline, baseline_images
from xseg.heatmaps.cells import linear_weights, windows
from xseg.heatmaps.layers import evaluating, single
from xseg.heatmaps.registry import Method, Query, methods
from xseg.heatmaps.sampling import class_scores, require_positive, require_within
from xseg.registry import memory_only
from xseg.seeding import generator


@methods.register("occlusion")
@dataclass(frozen=True)
class Occlusion(Method):
    """Drop of the logit when a window is filled, averaged over the windows that cover a pixel (Zeiler and Fergus 2014).

    Windows start at every `stride` pixels from the upper left corner; the last ones are cut off at the edge, as in
    Captum.

    Args:
        window: side of the square window in pixels; auto is a seventh of the image's shorter side (32 of 224).
        stride: step in pixels, at most `window`; auto is half the window.
        fill: what a window is filled with, see `baseline_images`; the paper's grey is `zero`.
        score: `logit`, or `probability` as in the paper.
        chunk: windows per image in one forward pass; only memory and rounding depend on it.
    """

    window: int | None = None
    stride: int | None = None
    fill: Baseline = "zero"
    score: Literal["logit", "probability"] = "logit"
    chunk: int = memory_only(8)

    signed: ClassVar[bool] = True
    class_specific: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    models: ClassVar[str] = "any"
    cost: ClassVar[str] = "(1 + n) f, n windows: about 2 x 7 to a side, 170 a square image by default"
    summary: ClassVar[str] = "drop of the logit when a sliding window hides part of the picture"
    source: ClassVar[str] = "Zeiler and Fergus 2014, arXiv:1311.2901"

    def __post_init__(self) -> None:
        require_positive(window=self.window, stride=self.stride, chunk=self.chunk)
        if self.window and self.stride and self.stride > self.window:
            raise UsageError(f"--set stride={self.stride}: leaves gaps between windows of {self.window} pixels")

    def __call__(self, classifier: Classifier, query: Query) -> Tensor:
        """Maps (P,H,W) at the resolution of the images; all classes share each window's forward pass.

        Raises:
            UsageError: `stride` is larger than the window.
        """
        sides = query.images.shape[2:]
        window = self.window or max(1, round(min(sides) / 7))
        stride = self.stride or max(1, window // 2)
        if stride > window:
            raise UsageError(f"--set stride={stride}: leaves gaps between windows of {window} pixels", "set window too")
        rows, columns = (windows(side, window, stride) for side in sides)
        places = [(*row, *column) for row in rows for column in columns]
        with evaluating(classifier, query.create_graph), torch.set_grad_enabled(query.create_graph):
            fill = baseline_images(classifier, query.images, self.fill)
            intact = class_scores(classifier, query, query.images.clone(), self.score == "probability")
            drops = []
            for start in range(0, len(places), self.chunk):
                hidden = torch.cat([_hide(query.images, fill, place) for place in places[start : start + self.chunk]])
                drops.append(intact - class_scores(classifier, query, hidden, self.score == "probability"))
            drop = torch.cat(drops).view(len(rows), len(columns), -1)
            covers = [_cover(drop, spans, side) for spans, side in zip((rows, columns), sides, strict=True)]
            with torch.autocast(drop.device.type, enabled=False):
                maps = torch.einsum("yxp,yh,xw->phw", drop, *covers)
            return maps / (covers[0].sum(0)[:, None] * covers[1].sum(0))


def _hide(images: Tensor, fill: Tensor, place: tuple[int, int, int, int]) -> Tensor:
    top, bottom, left, right = place
    hidden = images.clone()
    hidden[..., top:bottom, left:right] = fill[..., top:bottom, left:right]
    return hidden


def _cover(like: Tensor, spans: list[tuple[int, int]], length: int) -> Tensor:
    """Which pixels of a side each window covers: (windows,length) of 0 and 1."""
    cover = like.new_zeros(len(spans), length)
    for row, (start, stop) in zip(cover, spans, strict=True):
        row[start:stop] = 1
    return cover


@methods.register("rise")
@dataclass(frozen=True)
class Rise(Method):
    """Mean of random soft masks weighted by the class's probability under them (Petsiuk et al. 2018, Eq. 6).

    A mask is a grid of `cells` x `cells` values, 1 with probability `keep` and else 0, enlarged linearly to one cell
    more than the image and cut to it at a random shift. Grids and relative shifts are keyed by seed and mask number
    alone, so all images and classes share them. As in the published code masks multiply normalised pixels: what is
    hidden becomes the mean colour.

    Args:
        masks: number of masks; the paper takes 4000 for VGG16 and 8000 for ResNet50.
        cells: cells per side of a mask.
        keep: probability that a cell is shown.
        fill: what shows where the mask is 0, see `baseline_images`; the text of the paper would be `black`.
        score: `probability` by the classifier's recorded activation, or `logit`.
        chunk: masks per image in one forward pass; only memory and rounding depend on it.
    """

    masks: int = 4000
    cells: int = 7
    keep: float = 0.5
    fill: Baseline = "zero"
    score: Literal["logit", "probability"] = "probability"
    chunk: int = memory_only(8)

    signed: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    models: ClassVar[str] = "any"
    cost: ClassVar[str] = "n f, n = masks"
    summary: ClassVar[str] = "random soft masks averaged, each weighted by the class's probability under it"
    source: ClassVar[str] = "Petsiuk et al. 2018, arXiv:1806.07421"

    def __post_init__(self) -> None:
        require_positive(masks=self.masks, cells=self.cells, chunk=self.chunk)
        require_within("cells", self.cells, 1, 1024)
        if not 0 < self.keep <= 1:
            raise UsageError(f"--set keep={self.keep}: needs a probability above 0")

    @property
    def is_signed(self) -> bool:
        """Signed with `score=logit`."""
        return self.score == "logit"

    def __call__(self, classifier: Classifier, query: Query) -> Tensor:
        """Maps (P,H,W) at the resolution of the images; all classes share each mask's forward pass."""
        total: Tensor | float = 0.0
        with evaluating(classifier, query.create_graph), torch.set_grad_enabled(query.create_graph):
            fill = baseline_images(classifier, query.images, self.fill)
            for start in range(0, self.masks, self.chunk):
                numbers = range(start, min(start + self.chunk, self.masks))
                masks = torch.stack([self._mask(query, number) for number in numbers])
                shown = masks.to(fill.dtype)[:, None, None]
                pictures = (fill + shown * (query.images - fill)).flatten(0, 1)
                scores = class_scores(classifier, query, pictures, self.score == "probability")
                with torch.autocast(masks.device.type, enabled=False):  # thousands of terms are too many for float16
                    total = total + torch.einsum("sp,shw->phw", scores, masks)
        assert isinstance(total, Tensor)  # there is at least one mask
        return total / (self.masks * self.keep)

    def _mask(self, query: Query, number: int) -> Tensor:
        """Mask (H,W) in [0,1]."""
        random = generator(query.seed, "rise", number)
        grid = torch.from_numpy((random.random((self.cells, self.cells)) < self.keep).astype("float32"))
        like = single(query.images)
        values = grid.to(like)
        weights = []
        for side, shift in zip(query.images.shape[2:], random.random(2).tolist(), strict=True):
            cell = math.ceil(side / self.cells)
            pixel = torch.arange(side, device=like.device, dtype=like.dtype) + int(shift * cell)
            weights.append(linear_weights((pixel + 0.5) * self.cells / ((self.cells + 1) * cell) - 0.5, self.cells))
        with torch.autocast(like.device.type, enabled=False):
            return weights[0] @ values @ weights[1].T
