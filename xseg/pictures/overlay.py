"""Masks and heatmaps drawn over the image they belong to."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from xseg.pictures.colormap import STEPS, diverging, sequential
from xseg.pictures.palette import Ints, colours
from xseg.shapes import check_shapes

Pixels = npt.NDArray[np.uint8]


def overlay_mask(image: Pixels, mask: Ints, alpha: float = 0.55) -> Image.Image:
    """The classes of a mask tinted over the image in palette colours, their borders drawn in full colour.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) class ids; 0 leaves the image as it is, 255 (unknown) is pale.
        alpha: 0 only the image, 1 only the colours.

    Returns:
        RGB picture of size (W, H).

    Raises:
        ValueError: shapes that do not fit, or alpha outside [0, 1].
    """
    _check(image, mask, alpha)
    check_shapes(image=(image, "H W 3"), mask=(mask, "H W"))
    weight = np.where(mask > 0, alpha, 0.0)
    if alpha > 0:
        weight[_border(mask)] = 1.0
    return _blend(image, colours(mask), weight)


def overlay_heatmap(
    image: Pixels,
    heatmap: npt.NDArray[np.floating],
    alpha: float = 0.6,
    *,
    signed: bool | None = None,
    limit: float | None = None,
) -> Image.Image:
    """A heatmap over the image: violet to yellow for 0..limit, or blue, white, red for -limit..limit.

    Args:
        image: (H, W, 3) uint8.
        heatmap: (h, w) floats. Another size is resized for viewing: bilinear, both grids covering the image.
        alpha: 0 only the image, 1 only the colours.
        signed: use the two-sided colours; default: if any value is negative. Else negatives are drawn as 0.
        limit: value with the strongest colour, default the largest absolute value.

    Returns:
        RGB picture of size (W, H).

    Raises:
        ValueError: shapes that do not fit, values that are not finite, alpha outside [0, 1] or limit not above 0.
    """
    _check(image, heatmap, alpha)
    values = np.asarray(heatmap, np.float32)
    if not values.size or not np.isfinite(values).all():
        raise ValueError("heatmap is empty or holds values that are not finite")
    if limit is not None and limit <= 0:
        raise ValueError(f"limit is {limit}, needed above 0")
    if values.shape != image.shape[:2]:
        size = (image.shape[1], image.shape[0])
        values = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR))
    signed = bool((values < 0).any()) if signed is None else signed
    limit = float(np.abs(values).max()) if limit is None else limit
    steps, table = colour_steps(values, signed, limit)
    return _blend(image, table[steps], np.full(values.shape, alpha))


def colour_steps(values: npt.NDArray[np.float32], signed: bool, limit: float) -> tuple[Pixels, Pixels]:
    """The colours of a heatmap.

    Args:
        values: any shape, finite.
        signed: blue, white, red for -limit..limit; else violet to yellow for 0..limit, negatives as 0.
        limit: value with the strongest colour; 0 gives every value the colour of 0.

    Returns:
        Step of each value, uint8 of the same shape, and the colour of each step, (256, 3) uint8.
    """
    unit = np.clip(values / limit, -1, 1) if limit > 0 else np.zeros_like(values)
    share = (unit + 1) / 2 if signed else np.maximum(unit, 0)
    return np.rint(share * (STEPS - 1)).astype(np.uint8), diverging() if signed else sequential()


def _border(mask: Ints) -> npt.NDArray[np.bool_]:
    """(H, W): labelled pixels with another label to the right, left, above or below."""
    edge = np.zeros(mask.shape, bool)
    across, down = mask[:, 1:] != mask[:, :-1], mask[1:] != mask[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge & (mask > 0)


def _blend(image: Pixels, colour: Pixels, weight: npt.NDArray[np.floating]) -> Image.Image:
    share = weight[..., None].astype(np.float32)
    return Image.fromarray(np.rint(image * (1 - share) + colour * share).astype(np.uint8))


def _check(image: Pixels, layer: npt.NDArray[np.generic], alpha: float) -> None:
    check_shapes(image=(image, "H W 3"), layer=(layer, "h w"))
    if image.dtype != np.uint8:
        raise ValueError(f"image has dtype {image.dtype}, needed uint8")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}, needed 0..1")
