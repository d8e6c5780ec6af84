"""Class probabilities of whole images: several scales, the mirror image and sliding windows, in batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from xseg.classifier.sides import nearest, side_steps, takes_one_size
from xseg.device import autocast, halving
from xseg.errors import UsageError
from xseg.heatmaps.batches import device_of, equal_sized, sides_of, stack
from xseg.heatmaps.layers import evaluating
from xseg.heatmaps.views import Views, resize_images
from xseg.segmenter.heads import resize
from xseg.segmenter.network import Segmenter
from xseg.segmenter.windows import windowed


@dataclass(frozen=True)
class Looks:
    """How a segmenter looks at each image.

    Attributes:
        scales: factors on the image's sides; the probabilities are averaged.
        flip: also look at the mirrored image at each scale.
        size: long side in pixels at scale 1; None: the image as it is.
        window: side of the square windows that slide over larger views; None: views are looked at as a whole.
        step: most pixels from window to window; None: two thirds of a window.

    Raises:
        UsageError: a step without windows, or one that leaves gaps.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    size: int | None = None
    window: int | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        if self.step is not None and (self.window is None or not 1 <= self.step <= self.window):
            raise UsageError(f"--step {self.step}: needed 1 to --window", "leave it out for two thirds of a window")
        if self.window is not None and self.window < 1:
            raise UsageError(f"--window {self.window}: needs at least 1 pixel")


def views_of(segmenter: Segmenter, looks: Looks) -> Views:
    """The looks as views, with what the backbone demands of its images.

    Raises:
        UsageError: scales, a size or a window that the backbone does not take.
    """
    config, trunk = segmenter.config, segmenter.trunk
    steps = side_steps(trunk)
    fixed = config.backbone.input_size if takes_one_size(trunk) else None
    if looks.window is not None:
        if fixed is not None:
            sides = "x".join(map(str, fixed))
            raise UsageError(f"--window {looks.window}: the backbone takes images of {sides} only", "leave it out")
        wrong = next((step for step in steps if looks.window % step), None)
        if wrong is not None or looks.window < config.smallest:
            good = nearest(max(looks.window, config.smallest), wrong or 1)
            raise UsageError(
                f"--window {looks.window}: the backbone takes {config.smallest} pixels or more, in steps of {steps[0]}",
                f"--window {good}",
            )
    return Views(looks.scales, looks.flip, looks.size, "image", fixed, config.smallest, steps)


def posteriors(
    segmenter: Segmenter, images: Sequence[np.ndarray], looks: Looks, *, batch_size: int = 8, amp: bool = False
) -> list[Tensor]:
    """Class probabilities of each pixel.

    Images of equal size are batched and nothing is padded, so the result does not depend on `batch_size` or on the
    other images. When the device runs out of memory the batch is halved.

    Args:
        segmenter: on the device where the work is to be done; any mode, left as it was.
        images: (H,W,3) uint8 each.
        looks: scales, flip, windows.
        batch_size: images per forward pass.
        amp: mixed precision (accelerators only).

    Returns:
        Of each image (C + 1,H,W) float32 on the segmenter's device, background first, each pixel's sum 1.

    Raises:
        UsageError: looks that the backbone does not take.
        Unavailable: the device's memory does not hold one image.
    """
    views = views_of(segmenter, looks)
    device = device_of(segmenter)
    found: dict[int, Tensor] = {}

    def look(chosen: Sequence[int]) -> list[Tensor]:
        pixels = stack([images[index] for index in chosen]).to(device)
        with autocast(device, amp):
            return list(_averaged(segmenter, pixels, views, looks))

    with evaluating(segmenter), torch.no_grad():
        for batch in equal_sized(images, range(len(images)), batch_size):
            found.update(zip(batch, halving(look, batch), strict=True))
    return [found[index] for index in range(len(images))]


def _averaged(segmenter: Segmenter, pixels: Tensor, views: Views, looks: Looks) -> Tensor:
    """Probabilities (N,C+1,H,W) of pixels (N,3,H,W) uint8, averaged over all views."""
    sides = sides_of(pixels)
    total: Tensor | None = None
    for scale in views.scales:
        view = segmenter.normalise(resize_images(pixels, views.shape(sides, scale)))
        view = view.contiguous(memory_format=segmenter.backbone.classifier.layout)
        seen = _seen(segmenter, view, looks)
        if views.flip:
            seen = (seen + _seen(segmenter, view.flip(-1), looks).flip(-1)) / 2
        seen = seen if sides_of(seen) == sides else resize(seen, sides)
        total = seen if total is None else total + seen
    assert total is not None  # Views refuses an empty list of scales
    return total / len(views.scales)


def _seen(segmenter: Segmenter, view: Tensor, looks: Looks) -> Tensor:
    probabilities = partial(_probabilities, segmenter)
    if looks.window is None:
        return probabilities(view)
    step = looks.step or max(1, looks.window * 2 // 3)
    return windowed(probabilities, view, (looks.window, looks.window), (step, step))


def _probabilities(segmenter: Segmenter, images: Tensor) -> Tensor:
    return functional.softmax(segmenter(images).float(), 1)
