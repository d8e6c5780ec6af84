"""Views of an image (scales, mirror) and the way back from a view's map to the grid that is stored."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional

from xseg.classifier.model import Classifier
from xseg.classifier.sides import enough, nearest, side_steps, takes_one_size
from xseg.device import is_out_of_memory
from xseg.errors import UsageError
from xseg.heatmaps.layers import evaluating

#: No side of a view falls below the stride of the deepest usual networks, whatever the image and the scale.
SMALLEST_SIDE = 32

_SIDES = (SMALLEST_SIDE, 48, 64, 96, 128, 192, 256, 384)
_smallest: WeakKeyDictionary[Classifier, int] = WeakKeyDictionary()

MapSize = Literal["image", "model"] | tuple[int, int]


@dataclass(frozen=True)
class Views:
    """How often and how large the network sees each image, and how large the maps become.

    Args:
        scales: factors on the image's sides; the maps of all views are summed (PSA `infer_cls.py`).
        flip: also look at the mirrored image at each scale.
        size: long side in pixels at scale 1; None: the image as it is.
        map_size: grid of the result: the image's, the model's own (that of the first scale), or (height, width).
        fixed: (height, width) for networks that take nothing else; the aspect ratio is then given up.
        smallest: no side of a view falls below it, see `smallest_side`.
        steps: (height, width) of which the sides of a view are multiples, see `side_steps`; the next ones are taken.

    Raises:
        UsageError: an empty or non-positive value, or several scales for a network of fixed size.
    """

    scales: Sequence[float] = (1.0,)
    flip: bool = False
    size: int | None = None
    map_size: MapSize = "image"
    fixed: tuple[int, int] | None = None
    smallest: int = SMALLEST_SIDE
    steps: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= 16 for scale in self.scales):
            raise UsageError(f"--scales {','.join(map(str, self.scales))}: needs factors above 0 and up to 16")
        if self.size is not None and self.size < 1:
            raise UsageError(f"--size {self.size}: needs at least 1 pixel")
        if not isinstance(self.map_size, str) and (len(self.map_size) != 2 or min(self.map_size) < 1):
            raise UsageError(f"--map-size {self.map_size}: needs image, model or HEIGHTxWIDTH")
        if isinstance(self.map_size, str) and self.map_size not in ("image", "model"):
            raise UsageError(f"--map-size {self.map_size}: needs image, model or HEIGHTxWIDTH")
        if self.fixed is not None and len(self.scales) > 1:
            height, width = self.fixed
            raise UsageError(f"--scales: this model takes images of {height}x{width} only", "use --scales 1")

    def shape(self, image: tuple[int, int], scale: float) -> tuple[int, int]:
        """Height and width of the view of an image of (height, width) `image` at `scale`."""
        if self.fixed is not None:
            return self.fixed
        factor = scale if self.size is None else scale * self.size / max(image)
        wanted = (max(self.smallest, round(side * factor)) for side in image)
        height, width = (
            max(nearest(side, step), enough(self.smallest, step)) for side, step in zip(wanted, self.steps, strict=True)
        )
        return height, width

    def grid(self, image: tuple[int, int], model: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the stored maps, given those of the image and of the model's first map."""
        if isinstance(self.map_size, tuple):
            return self.map_size
        return image if self.map_size == "image" else model


def fixed_size(classifier: Classifier) -> tuple[int, int] | None:
    """(height, width) of a network that refuses every other size, as some transformers do; None for the rest."""
    return classifier.config.input_size if takes_one_size(classifier.net) else None


def views_for(classifier: Classifier, views: Views) -> Views:
    """`views` with what the network demands of its images.

    Raises:
        UsageError: several scales for a network of fixed size.
    """
    steps = side_steps(classifier.net)
    return replace(views, fixed=fixed_size(classifier), smallest=smallest_side(classifier), steps=steps)


def smallest_side(classifier: Classifier) -> int:
    """Pixels that a side must have for the network to run: `SMALLEST_SIDE`, or more for those that pad little.

    AlexNet needs 63. Tried once for each classifier, on squares of zeros; none needs more than its own input size, and
    those that take one size only are not asked.
    """
    if min(classifier.config.input_size) <= SMALLEST_SIDE or takes_one_size(classifier.net):
        return SMALLEST_SIDE
    if classifier not in _smallest:
        _smallest[classifier] = next((side for side in _SIDES if _runs(classifier, side)), SMALLEST_SIDE)
    return _smallest[classifier]


def _runs(classifier: Classifier, side: int) -> bool:
    weight = next(classifier.parameters())
    shape = [enough(side, step) for step in side_steps(classifier.net)]
    try:
        with evaluating(classifier), torch.no_grad():
            classifier(torch.zeros(1, 3, *shape, dtype=weight.dtype, device=weight.device))
    except RuntimeError as error:
        return is_out_of_memory(error)  # which says nothing of the network
    return True


def resize_images(pixels: Tensor, shape: tuple[int, int]) -> Tensor:
    """Bicubic resampling, antialiased when shrinking, each image by itself.

    The result is not rounded back to 256 levels, so that CPU and GPU stay as close as their arithmetic.

    Args:
        pixels: (N,3,H,W) uint8.
        shape: height and width wanted.

    Returns:
        (N,3,h,w) float32 in [0,1].
    """
    scaled = pixels.to(torch.float32)
    if tuple(scaled.shape[-2:]) != shape:
        scaled = functional.interpolate(scaled, shape, mode="bicubic", align_corners=False, antialias=True)
    return scaled.clamp(0, 255).div_(255)


def resize_maps(maps: Tensor, shape: tuple[int, int]) -> Tensor:
    """Bilinear resampling of (P,h,w) float32 maps, `align_corners=False`, to (P,*shape)."""
    if tuple(maps.shape[-2:]) == shape or not len(maps):
        return maps if len(maps) else maps.new_zeros(0, *shape)
    return functional.interpolate(maps[:, None], shape, mode="bilinear", align_corners=False)[:, 0]
