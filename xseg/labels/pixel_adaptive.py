"""Maps spread along colour: each pixel takes, several times, a weighted mean of neighbours of similar colour.

Pixel-adaptive mask refinement (PAMR, Araslanov and Roth 2020, arXiv:2005.08104) and pixel-adaptive refinement (PAR, Ru
et al. 2022, arXiv:2203.02664). What is computed is the published code; `docs/refinement.md` says where papers differ.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from xseg.shapes import check_shapes

BAND = 2**15  # pixels worked on at a time, so that they stay in the processor's cache
TINY = 1e-8  # keeps a deviation of zero from dividing by zero
_RING = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


@dataclass(frozen=True)
class PixelAdaptive:
    """A pixel's weights over its neighbours, and how often they are applied. Defaults are those of PAR.

    Attributes:
        dilations: the neighbours are the 8 of a 3x3 window at each of these distances, pixels.
        iterations: how often the maps are averaged; 0 returns them.
        colour_width: w1, in units of the neighbourhood's standard deviation in a channel.
        position_width: w2, in units of the standard deviation of the distances.
        position_weight: w3, of the softmax over distances beside that over colours.
        power: of a difference in its units: PAR 2, PAMR 1.
        own: whether the pixel counts, once a window, in the standard deviation; PAMR's does.
    """

    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24)
    iterations: int = 10
    colour_width: float = 0.3
    position_width: float = 0.3
    position_weight: float = 0.01
    power: int = 2
    own: bool = False

    def __post_init__(self) -> None:
        """Refuse what has no meaning.

        Raises:
            ValueError: no dilation, or one that is not a whole distance, another power, a width not above zero, a
                weight or iterations below zero.
        """
        if not self.dilations or any(step < 1 or step != int(step) for step in self.dilations):
            raise ValueError(f"dilations are {self.dilations}, needed whole distances of 1 or more")
        if self.power not in (1, 2):
            raise ValueError(f"power is {self.power}, needed 1 or 2")
        for name in ("colour_width", "position_width"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, needed more than 0")
        for name in ("position_weight", "iterations"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, needed 0 or more")

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """The neighbours, (rows, columns) from the pixel; 8 a dilation."""
        return [(y * step, x * step) for step in self.dilations for y, x in _RING]

    @property
    def reach(self) -> int:
        """Pixels to the farthest row or column of neighbours."""
        return max(self.dilations)

    def __call__(self, scores: Tensor, image: Tensor) -> Tensor:
        """See `Refinement`."""
        check_shapes(scores=(scores, "A L H W"), image=(image, "H W 3"))
        return spread(scores.flatten(0, 1)[None], neighbour_weights(image[None], self), self)[0].view_as(scores)


PRESETS = {
    "par": PixelAdaptive(),
    "pamr": PixelAdaptive(colour_width=0.1, position_weight=0.0, power=1, own=True),
}


def neighbour_weights(images: Tensor, constants: PixelAdaptive) -> Tensor:
    """Every pixel's weights over its neighbours.

    softmax over the neighbours j of pixel i of -mean over colours of (|I_i - I_j| / (w1 sigma_i))^power, plus w3 times
    the softmax of -(distance / (w2 sigma))^power, divided by 1 + w3. sigma_i is the standard deviation of a colour
    over the neighbours. Beyond the image its edge is repeated. Memory: the result, 4 bytes a pixel and neighbour
    (36 MB for 375x500 pixels and 48 neighbours), plus a few copies of the images.

    Args:
        images: (B,H,W,3) uint8 RGB.
        constants: the neighbourhood and its widths.

    Returns:
        (B,A,H,W) float32, A as in `constants.offsets`, summing to 1 over A.

    Raises:
        ValueError: shapes that do not fit, or images that are not uint8.
    """
    check_shapes(images=(images, "B H W 3"))
    if images.dtype != torch.uint8:
        raise ValueError(f"found {images.dtype} images, needed uint8")
    reach, (height, width) = constants.reach, images.shape[1:3]
    colours = _edged(images.permute(0, 3, 1, 2).float(), reach)
    weights = colours.new_zeros(len(images), len(constants.offsets), height, width)
    rows = max(1, BAND // width)
    for start in range(0, height, rows):
        band = colours[:, :, start : min(start + rows, height) + 2 * reach]
        _fill_weights(weights[:, :, start : start + rows], band, constants)
    return weights.add_(_position_term(constants, weights)).div_(1 + constants.position_weight)


def spread(maps: Tensor, weights: Tensor, constants: PixelAdaptive) -> Tensor:
    """`maps` after each pixel took the weighted mean of its neighbours, `constants.iterations` times.

    Args:
        maps: (B,K,H,W) float32; beyond the image its edge is repeated.
        weights: (B,A,H,W) as from `neighbour_weights`.
        constants: the same.

    Returns:
        (B,K,H,W) float32, in the range of the maps; where they sum to 1 over K they still do.

    Raises:
        ValueError: shapes that do not fit.
    """
    check_shapes(maps=(maps, "B K H W"), weights=(weights, "B A H W"))
    for _ in range(constants.iterations):
        edged, maps = _edged(maps, constants.reach), torch.zeros_like(maps)
        for place, there in enumerate(_neighbours(edged, constants)):
            maps.addcmul_(there, weights[:, place, None])
    return maps


def _edged(maps: Tensor, reach: int) -> Tensor:
    """`maps` (B,K,H,W) with their edge repeated `reach` pixels on each side."""
    return pad(maps, (reach,) * 4, mode="replicate")


def _neighbours(edged: Tensor, constants: PixelAdaptive) -> Iterator[Tensor]:
    """Views of the inner part of `edged` (B,K,H + 2 reach,W + 2 reach), moved by each offset."""
    reach = constants.reach
    height, width = edged.shape[2] - 2 * reach, edged.shape[3] - 2 * reach
    for y, x in constants.offsets:
        yield edged[:, :, reach + y : reach + y + height, reach + x : reach + x + width]


def _fill_weights(weights: Tensor, edged: Tensor, constants: PixelAdaptive) -> None:
    """The softmax over colours into `weights` (B,A,h,W), which are zeros."""
    inner = slice(constants.reach, -constants.reach)
    colours = edged[:, :, inner, inner].contiguous()
    unit, nearest = _colour_units(colours, edged, constants)
    apart = torch.empty_like(colours)
    for place, there in enumerate(_neighbours(edged, constants)):
        # Less the nearest in each colour: the softmax is the same, and large terms that all share do not round.
        difference = _powered(torch.sub(there, colours, out=apart), constants).sub_(nearest).mul_(unit)
        for colour in difference.unbind(1):
            weights[:, place] += colour
    weights.sub_(weights.amax(1, keepdim=True)).exp_()
    weights.div_(weights.sum(1, keepdim=True))


def _colour_units(colours: Tensor, edged: Tensor, constants: PixelAdaptive) -> tuple[Tensor, Tensor]:
    """What a difference^power counts, negative, and the smallest one; (B,3,h,W) each."""
    total, squares, apart = torch.zeros_like(colours), torch.zeros_like(colours), torch.empty_like(colours)
    nearest = torch.full_like(colours, torch.inf)
    for there in _neighbours(edged, constants):
        torch.sub(there, colours, out=apart)
        total += apart
        squares.addcmul_(apart, apart)
        torch.minimum(nearest, apart.abs_(), out=nearest)
    # Differences to the pixel itself, which counts as zero: whole numbers, so the variance of a flat region is exact.
    count = len(constants.offsets) + (len(constants.dilations) if constants.own else 0)
    variance = (count * squares.long() - total.long() ** 2).float() / (count * (count - 1))
    unit = (constants.colour_width * variance.sqrt() + TINY).pow(constants.power)
    return -1 / (colours.shape[1] * unit), _powered(nearest, constants)


def _powered(apart: Tensor, constants: PixelAdaptive) -> Tensor:
    """|apart|^power, in its place."""
    return apart.mul_(apart) if constants.power == 2 else apart.abs_()


def _position_term(constants: PixelAdaptive, like: Tensor) -> Tensor:
    """w3 times the softmax over distances, (A,1,1)."""
    distance = torch.tensor([math.hypot(y, x) for y, x in constants.offsets], dtype=torch.float64)
    energy = -((distance / (constants.position_width * distance.std())) ** constants.power)
    return (constants.position_weight * energy.softmax(0)).to(like)[:, None, None]
