"""Training augmentation: one record of the geometry, applied alike to an image and to what lies over it.

After the published training of psa: random long side, horizontal flip, colour jitter, then a crop whose padding is
zero after normalisation. All functions are pure; the draws come from the generator that is passed in.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance

from xseg.datasets.index import UNKNOWN
from xseg.shapes import check_shapes


@dataclass(frozen=True)
class Geometry:
    """Resize, then flip, then cut a window that may reach over the edges.

    Attributes:
        source: (height, width) of what it applies to.
        resized: (height, width) after the resize.
        flip: whether left and right are exchanged after the resize.
        offset: (top, left) of the window in the resized image; negative where padding comes first.
        size: (height, width) of the window.
    """

    source: tuple[int, int]
    resized: tuple[int, int]
    flip: bool
    offset: tuple[int, int]
    size: tuple[int, int]

    @property
    def valid(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of the part of the window that the image covers, in window pixels."""
        top, left = (max(0, -start) for start in self.offset)
        bottom = min(self.size[0], self.resized[0] - self.offset[0])
        right = min(self.size[1], self.resized[1] - self.offset[1])
        return top, left, bottom, right

    def _cut(self) -> tuple[slice, slice, slice, slice]:
        top, left, bottom, right = self.valid
        row, column = self.offset
        window = slice(top, bottom), slice(left, right)
        return *window, slice(top + row, bottom + row), slice(left + column, right + column)


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for every image.

    Attributes:
        crop: (height, width) of the result, pixels.
        long_side: range (inclusive) of the resized long side, pixels; None keeps the size.
        rescale: range of a factor on the size instead of `long_side` (irn draws 0.5..1.5); None for none.
        flip: probability of the horizontal flip.
        jitter: strengths of brightness, contrast, saturation (factor 1 +- strength) and hue (+- turns, <= 0.5).
    """

    crop: tuple[int, int] = (448, 448)
    long_side: tuple[int, int] | None = (256, 512)
    rescale: tuple[float, float] | None = None
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.3, 0.3, 0.3, 0.1)


@dataclass(frozen=True)
class Augmented:
    """A training sample: `image` (h, w, 3) uint8, zero outside `geometry.valid`, and the geometry for its labels."""

    image: np.ndarray
    geometry: Geometry


def augment(image: np.ndarray, rng: np.random.Generator, settings: Augmentation) -> Augmented:
    """Draw and apply one augmentation.

    Args:
        image: (H, W, 3) uint8.
        rng: one generator per image and epoch (`xseg.seeding.generator(seed, id, epoch)`).
        settings: the ranges.
    """
    check_shapes(image=(image, "H W 3"))
    geometry = draw_geometry(rng, (image.shape[0], image.shape[1]), settings)
    resized = resize(image, geometry.resized)
    if geometry.flip:
        resized = resized[:, ::-1]
    return Augmented(_window(jitter_colours(resized, rng, settings.jitter), geometry, 0), geometry)


def draw_geometry(rng: np.random.Generator, source: tuple[int, int], settings: Augmentation) -> Geometry:
    """Random size, flip and window of an image of `source` (height, width).

    Where the resized image is larger than the crop the window lies anywhere inside it; where it is smaller the image
    lies anywhere inside the window.
    """
    height, width = source
    factor = 1.0
    if settings.long_side is not None:
        low, high = settings.long_side
        factor = int(rng.integers(low, high + 1)) / max(source)
    elif settings.rescale is not None:
        factor = float(rng.uniform(*settings.rescale))
    resized = max(1, round(height * factor)), max(1, round(width * factor))
    flip = bool(rng.random() < settings.flip)
    offset = _draw_offset(rng, resized[0], settings.crop[0]), _draw_offset(rng, resized[1], settings.crop[1])
    return Geometry(source, resized, flip, offset, settings.crop)


def _draw_offset(rng: np.random.Generator, length: int, window: int) -> int:
    space = length - window
    return int(rng.integers(space + 1)) if space >= 0 else -int(rng.integers(-space + 1))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Antialiased bicubic resize (Pillow) of (H, W, 3) uint8 to `size` (height, width)."""
    if image.shape[:2] == tuple(size):
        return image
    return np.array(Image.fromarray(np.ascontiguousarray(image)).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def jitter_colours(
    image: np.ndarray, rng: np.random.Generator, strengths: tuple[float, float, float, float]
) -> np.ndarray:
    """Brightness, contrast, saturation and hue changed in random order, on 8-bit values (torchvision's ColorJitter).

    Args:
        image: (H, W, 3) uint8.
        rng: draws four factors and the order, whatever the strengths.
        strengths: b, c, s: factors from [max(0, 1 - s), 1 + s]; hue: shift in turns from [-s, s].
    """
    factors = [float(rng.uniform(max(0.0, 1 - strength), 1 + strength)) for strength in strengths[:3]]
    turn = float(rng.uniform(-strengths[3], strengths[3]))
    order = rng.permutation(4)
    picture = Image.fromarray(np.ascontiguousarray(image))
    # A strength of 0 leaves its step out: the way through 8-bit hues would round.
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for step in (step for step in order if strengths[step]):
        picture = _turn_hue(picture, turn) if step == 3 else enhancers[step](picture).enhance(factors[step])
    return np.array(picture)


def _turn_hue(picture: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = picture.convert("HSV").split()
    turned = (np.array(hue, np.int32) + int(turn * 255)) % 256
    hue = Image.fromarray(turned.astype(np.uint8))
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def _window(array: np.ndarray, geometry: Geometry, fill: float) -> np.ndarray:
    result = np.full((*geometry.size, *array.shape[2:]), fill, array.dtype)
    rows, columns, source_rows, source_columns = geometry._cut()
    result[rows, columns] = array[source_rows, source_columns]
    return result


def apply_to_labels(labels: np.ndarray, geometry: Geometry, fill: int = UNKNOWN) -> np.ndarray:
    """The same geometry for a label map: nearest neighbour at pixel centres, padding is `fill`.

    Args:
        labels: (H, W) integers over the image that the geometry was drawn for.
        geometry: of the image.
        fill: id of padded pixels.

    Returns:
        `geometry.size` array of the same dtype.
    """
    _check_source(labels.shape, geometry)
    rows, columns = (
        ((2 * np.arange(new) + 1) * old) // (2 * new)
        for old, new in zip(geometry.source, geometry.resized, strict=True)
    )
    return _window(labels[rows[:, None], (columns[::-1] if geometry.flip else columns)[None]], geometry, fill)


def apply_to_maps(maps: np.ndarray, geometry: Geometry, fill: float = 0.0) -> np.ndarray:
    """The same geometry for (K, H, W) float maps: bilinear (align_corners=False, antialiased), padding is `fill`.

    Returns:
        (K, *geometry.size) float32.
    """
    check_shapes(maps=(maps, "K H W"))
    _check_source(maps.shape[1:], geometry)
    values = torch.from_numpy(np.array(maps, np.float32))[None]
    if geometry.resized != geometry.source:
        values = torch.nn.functional.interpolate(
            values, geometry.resized, mode="bilinear", align_corners=False, antialias=True
        )
    if geometry.flip:
        values = values.flip(-1)
    return np.ascontiguousarray(_window(values[0].permute(1, 2, 0).numpy(), geometry, fill).transpose(2, 0, 1))


def reduce_labels(labels: np.ndarray, stride: int, *, block: bool = False, unknown: int = UNKNOWN) -> np.ndarray:
    """A label map at 1/stride of its size, from the top left; the rest of the last block counts as unknown.

    Args:
        labels: (H, W) integers.
        stride: block length, pixels.
        block: False takes the pixel at the block's centre (lower right of it for even strides); True the label that
            more than half of the block's pixels carry, else `unknown`.
        unknown: id of no label.

    Returns:
        (ceil(H / stride), ceil(W / stride)) array of the same dtype.
    """
    check_shapes(labels=(labels, "H W"))
    height, width = (-(-length // stride) for length in labels.shape)
    padded = np.full((height * stride, width * stride), unknown, labels.dtype)
    padded[: labels.shape[0], : labels.shape[1]] = labels
    if not block:
        return padded[stride // 2 :: stride, stride // 2 :: stride].copy()
    blocks = padded.reshape(height, stride, width, stride).transpose(0, 2, 1, 3).reshape(height, width, -1)
    # A label of more than half of a sorted block sits in its middle.
    middle = np.sort(blocks, -1)[..., blocks.shape[-1] // 2]
    holds = (blocks == middle[..., None]).sum(-1) * 2 > blocks.shape[-1]
    return np.where(holds, middle, labels.dtype.type(unknown))


def zero_padding(images: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Normalised crops with exact zeros outside their valid part, so that uint8 crops can travel between processes.

    Args:
        images: (N, C, H, W) float, normalised.
        valid: (N, 4) integer boxes (top, left, bottom, right) as in `Geometry.valid`.
    """
    check_shapes(images=(images, "N C H W"), valid=(valid, "N 4"))
    top, left, bottom, right = valid.to(images.device).T[:, :, None]
    row = torch.arange(images.shape[2], device=images.device)
    column = torch.arange(images.shape[3], device=images.device)
    rows, columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    return images * (rows[:, None, :, None] & columns[:, None, None, :])


def _check_source(shape: tuple[int, ...], geometry: Geometry) -> None:
    if tuple(shape) != tuple(geometry.source):
        raise ValueError(f"labels or maps of size {tuple(shape)}, needed that of the image: {geometry.source}")
