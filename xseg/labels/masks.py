"""Heatmaps and masks refined, and the preparation that maps need before it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from xseg.labels.confident import (
    BACKGROUND,
    IRN_CONFIDENCE,
    label_probabilities,
    label_type,
    unknown,
    with_background,
    with_threshold,
)
from xseg.labels.refinement import Refinement
from xseg.labels.shaping import SMALL, Shaping, shape_maps
from xseg.shapes import check_shapes


@dataclass(frozen=True)
class Preparation(Shaping):
    """How maps become scores in [0,1]; recorded with the result.

    The shaping is for maps that have no background among them; what follows works on both.

    Attributes:
        sharpen: the classes of a pixel, background included, become shares of their sum, raised to this power and
            divided by their sum again. None: maps that bring a background become shares (power 1), others stay.
    """

    sharpen: float | None = None

    def __post_init__(self) -> None:
        """Refuse what has no meaning.

        Raises:
            ValueError: as `Shaping`, or a power not above 0.
        """
        super().__post_init__()
        if self.sharpen is not None and not self.sharpen > 0:
            raise ValueError(f"sharpen is {self.sharpen}, needed a power above 0")


def class_scores(
    maps: Tensor,
    class_id: Tensor,
    preparation: Preparation,
    background: float | None = None,
    alpha: float | None = None,
    weight: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """What a refinement starts from: one score per pixel and class, background among them.

    Args:
        maps: (K,H,W) float. With a background among them, as a random walk leaves them, on one common scale.
        class_id: (K,) class ids; 0 is the background.
        preparation: how maps become scores.
        background: constant background score, for maps without a background;
        alpha: or the exponent of (1 - max)^alpha.
        weight: factor on a background that is among the maps.

    Returns:
        scores (K',H,W) float32 in [0,1], and ids (K',) int64 on their device. K' is K or K + 1.

    Raises:
        ValueError: no background among the maps, and both or neither way to find it given.
    """
    check_shapes(maps=(maps, "K H W"), class_id=(class_id, "K"))
    ids = class_id.to(maps.device).long()
    own = ids == BACKGROUND
    if own.any():
        weighted = maps.float().clamp(min=0) * torch.where(own, weight, 1.0)[:, None, None]
        return shares(weighted, preparation.sharpen or 1.0), ids
    if (background is None) == (alpha is None):
        raise ValueError(f"background {background} and alpha {alpha}: needed one of the two")
    prepared = shape_maps(maps, preparation)
    scores = with_background(prepared, alpha) if alpha is not None else with_threshold(prepared, background or 0.0)
    ids = torch.cat([ids.new_zeros(1), ids])
    return (scores if preparation.sharpen is None else shares(scores, preparation.sharpen)), ids


def shares(scores: Tensor, power: float = 1.0) -> Tensor:
    """Each class's share of a pixel.

    Args:
        scores: (K,H,W) float, not negative.
        power: the shares are raised to it, and divided by their sum again.

    Returns:
        (K,H,W) in [0,1], each pixel's sum 1, or 0 where all its scores are 0.
    """
    of_sum = (scores / scores.sum(0).clamp(min=SMALL)).pow(power)
    return of_sum / of_sum.sum(0).clamp(min=SMALL)


def refine(scores: Tensor, image: Tensor, refinement: Refinement) -> Tensor:
    """Scores after the refinement.

    Args:
        scores: (K,H,W) float32 in [0,1] at the size of the image, background among them.
        image: (H,W,3) uint8 RGB on the same device.
        refinement: a `DenseCrf` or `PixelAdaptive`.

    Returns:
        (K,H,W) float32. After a CRF a pixel's classes sum to 1; after averages they do if the scores did.

    Raises:
        ValueError: shapes that do not fit.
    """
    check_shapes(scores=(scores, "K H W"), image=(image, "H W 3"))
    if len(scores) == 1:
        return torch.ones_like(scores)
    return refinement(scores[None], image)[0]


def most_probable(posterior: Tensor, ids: Tensor, classes: int) -> Tensor:
    """Id of each pixel's most probable class.

    Args:
        posterior: (K,H,W) float.
        ids: (K,) int64 on the same device.
        classes: C of the data set, which decides the type.

    Returns:
        (H,W) uint8; uint16 where C > 254.
    """
    check_shapes(posterior=(posterior, "K H W"), ids=(ids, "K"))
    return ids[posterior.argmax(0)].to(label_type(classes))


def refine_mask(mask: Tensor, image: Tensor, refinement: Refinement, confidence: float = IRN_CONFIDENCE) -> Tensor:
    """Refine an existing mask over the classes it holds; unknown pixels receive one of them.

    Args:
        mask: (H,W) uint8 or uint16 class ids, the type's highest value for unknown.
        image: (H,W,3) uint8 RGB on the same device.
        refinement: a `DenseCrf` or `PixelAdaptive`.
        confidence: probability of a pixel's label before it is refined, in (0,1).

    Returns:
        (H,W) in the type of `mask`; a mask that is unknown everywhere becomes background.

    Raises:
        ValueError: shapes that do not fit, or a mask of another type.
    """
    check_shapes(mask=(mask, "H W"), image=(image, "H W 3"))
    if mask.dtype not in (torch.uint8, torch.uint16):
        raise ValueError(f"mask is {mask.dtype}, needed uint8 or uint16")
    given = mask.long()
    ids = given[given != unknown(mask.dtype)].unique()
    if not len(ids):
        return torch.zeros_like(mask)
    rows = torch.searchsorted(ids, given)
    rows[given == unknown(mask.dtype)] = len(ids)
    scores = label_probabilities(rows, len(ids), confidence)
    posterior = refinement(scores[None], image)[0]
    return ids[posterior.argmax(0)].to(mask.dtype)
