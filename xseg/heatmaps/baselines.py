"""Pictures without content: what an image is compared with, and what fills the places that are hidden."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from xseg.classifier.model import Classifier
from xseg.heatmaps.layers import single

Baseline = Literal["black", "white", "zero", "mean", "blur"]
BLUR = 0.05  # standard deviation of the blur as a fraction of the shorter side: 11 pixels of 224


def baseline_images(classifier: Classifier, images: Tensor, name: str) -> Tensor:
    """The baseline `name` for each image.

    Args:
        classifier: its mean and deviation say what is black.
        images: (N,3,H,W) normalised float.
        name: `black` or `white`: pixel value 0 or 1 before normalisation. `zero`: 0 after it, so the mean colour of the
            training images where the classifier was normalised with that. `mean`: the image's own mean colour. `blur`:
            the image after a Gaussian blur of 5 % of its shorter side.

    Returns:
        (N,3,H,W) in the dtype of `images`, a differentiable function of them.

    Raises:
        ValueError: no such baseline.
    """
    if name in ("black", "white"):
        return classifier.normalise(torch.full_like(images, float(name == "white")))
    if name == "zero":
        return torch.zeros_like(images)
    if name == "mean":
        return single(images).mean((2, 3), keepdim=True).to(images.dtype).expand_as(images)
    if name == "blur":
        return gaussian_blur(images, BLUR * min(images.shape[2:]))
    raise ValueError(f"baseline is {name!r}, needed one of black, white, zero, mean, blur")


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, cut off at three standard deviations, the image mirrored at its border (the edge not repeated).

    Args:
        images: (N,C,H,W) float, each side longer than 3 `sigma` + 0.5.
        sigma: standard deviation in pixels, > 0.

    Returns:
        (N,C,H,W) in the dtype of `images`.
    """
    values = single(images)
    radius = math.floor(3 * sigma + 0.5)
    offset = torch.arange(-radius, radius + 1, device=values.device, dtype=values.dtype)
    kernel = torch.exp(-0.5 * (offset / sigma) ** 2)
    kernel = kernel / kernel.sum()
    for axis in (2, 3):
        values = values.movedim(axis, 3)
        shape = values.shape
        padded = functional.pad(values.reshape(-1, 1, shape[3]), (radius, radius), "reflect")
        values = functional.conv1d(padded, kernel.view(1, 1, -1)).view(shape).movedim(3, axis)
    return values.to(images.dtype)


def median_blur(images: Tensor, size: int) -> Tensor:
    """Median over a square window around each pixel, per colour; border pixels are repeated outwards.

    Args:
        images: (N,C,H,W) float.
        size: side of the window in pixels, odd.

    Returns:
        (N,C,H,W) in the dtype of `images`, every value one of the image's own.
    """
    padded = functional.pad(single(images), (size // 2,) * 4, "replicate")
    blurred = torch.empty_like(images)
    # One colour at a time: the windows of all pixels take size^2 times the memory of what they are taken from.
    for image, result in zip(padded, blurred, strict=True):
        for colour, plane in zip(image, result, strict=True):
            windows = colour.unfold(0, size, 1).unfold(1, size, 1)
            plane.copy_(windows.flatten(2).median(2).values)
    return blurred
