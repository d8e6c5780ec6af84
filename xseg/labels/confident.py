"""Confident labels: foreground where a generous background says so, background where a strict one does, else unknown.

Two computations are published. psa (Ahn and Kwak 2018, arXiv:1803.10464) runs the CRF with two background exponents;
irn (Ahn et al. 2019, arXiv:1904.05044) with two constant background scores.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from xseg.labels.meanfield import Kernels
from xseg.labels.refinement import Refinement
from xseg.shapes import check_shapes

BACKGROUND = 0
PSA_ALPHAS = (4.0, 32.0)
PSA_BLOCK = 8
IRN_THRESHOLDS = (0.30, 0.05)
IRN_CONFIDENCE = 0.7
IRN_KERNELS = Kernels(bilateral_sxy=50.0, bilateral_srgb=5.0)
NO_SCORE = 1e-5  # below this best score a pixel lies outside the image (zero filling of a crop)


def label_type(classes: int) -> torch.dtype:
    """uint8, or uint16 where class ids reach its unknown value 255.

    Args:
        classes: the highest class id C.
    """
    return torch.uint8 if classes <= 254 else torch.uint16


def unknown(dtype: torch.dtype) -> int:
    """The value that means unknown: 255 in uint8, 65535 in uint16."""
    return torch.iinfo(dtype).max


def with_background(maps: Tensor, alpha: float) -> Tensor:
    """Put (1 - max over classes)^alpha before the class maps.

    Args:
        maps: (K,H,W) float in [0,1]; K may be 0, then the background is 1 everywhere.
        alpha: exponent, above 0; the larger, the less background.

    Returns:
        (K+1,H,W), not made to sum to 1.
    """
    check_shapes(maps=(maps, "K H W"))
    if not alpha > 0:
        raise ValueError(f"alpha is {alpha}, needed more than 0")
    highest = maps.amax(0) if len(maps) else torch.zeros_like(maps.sum(0))
    return torch.cat([(1 - highest).pow(alpha)[None], maps])


def with_threshold(maps: Tensor, score: float) -> Tensor:
    """Put a constant background `score` before the class maps (K,H,W): (K+1,H,W)."""
    check_shapes(maps=(maps, "K H W"))
    return torch.cat([torch.full_like(maps.sum(0), score)[None], maps])


def confident_posteriors(
    maps: Tensor, image: Tensor, refinement: Refinement, alphas: tuple[float, float] = PSA_ALPHAS
) -> tuple[Tensor, Tensor]:
    """Refine with psa's two background exponents; both share what is computed of the image.

    Args:
        maps: (K,H,W) float32 in [0,1], the classes present.
        image: (H,W,3) uint8 RGB on the same device.
        refinement: a `DenseCrf` or `PixelAdaptive`.
        alphas: the low and the high background exponent.

    Returns:
        Posteriors with the low and with the high exponent, (K+1,H,W) float32 each, background first.
    """
    low, high = refinement(torch.stack([with_background(maps, alpha) for alpha in alphas]), image)
    return low, high


def pool_blocks(scores: Tensor, block: int) -> Tensor:
    """Block means of `scores` (C,H,W); sides that `block` does not divide lose their last rows or columns.

    Returns:
        (C, H//block, W//block).
    """
    check_shapes(scores=(scores, "C H W"))
    return scores if block == 1 else avg_pool2d(scores[None], block)[0]


def confident_labels(low: Tensor, high: Tensor, class_id: Tensor, block: int = 1, classes: int = 0) -> Tensor:
    """Labels from two sets of scores: a class where `low` says it, background where `high` says it, else unknown.

    A pixel that `low` calls a class and `high` background becomes background, as published. A pixel whose best score
    is below 1e-5 is unknown. `block` 1 gives labels per pixel. psa's trainer crops the scores and then pools 8x8
    before the argmax: exact only on posteriors cropped the same way, `confident_labels(low[crop], high[crop], id, 8)`.
    To train from stored labels of every pixel instead, see `pool_labels`.

    Args:
        low: (K+1,H,W) float, background first; scores where the background is generous (exponent 4).
        high: (K+1,H,W) float; where it is strict (exponent 32).
        class_id: (K,) class ids 1..C of the rows after the first.
        block: side of the blocks that are averaged before the argmax.
        classes: C of the dataset, which decides the type; the highest of `class_id` if smaller than that.

    Returns:
        (H//block, W//block) uint8 with 0, class ids and 255 for unknown; uint16 and 65535 where C > 254.

    Raises:
        ValueError: shapes that do not fit.
    """
    sizes = check_shapes(low=(low, "L H W"), high=(high, "L H W"), class_id=(class_id, "K"))
    if sizes["L"] != sizes["K"] + 1:
        raise ValueError(f"found {sizes['L']} score maps for {sizes['K']} classes, needed one more for the background")
    low, high = pool_blocks(low, block), pool_blocks(high, block)
    (low_score, low_row), (high_score, high_row) = low.max(0), high.max(0)
    dtype = label_type(max([classes, *class_id.tolist()]))
    ids = torch.cat([torch.tensor([BACKGROUND], device=low.device), class_id.to(low.device).long()])
    labels = ids[low_row]
    labels[low_row == 0] = unknown(dtype)
    labels[high_row == 0] = BACKGROUND
    labels[torch.maximum(low_score, high_score) < NO_SCORE] = unknown(dtype)
    return labels.to(dtype)


def pool_labels(labels: Tensor, block: int = PSA_BLOCK) -> Tensor:
    """Labels of blocks from labels of pixels: the most frequent value of each, the smaller of two equal ones.

    Close to pooling posteriors before the argmax but not the same: the scores behind each pixel are gone.

    Args:
        labels: (H,W) integer.
        block: side of a block; sides that it does not divide lose their last rows or columns.

    Returns:
        (H//block, W//block) in the type of `labels`.
    """
    check_shapes(labels=(labels, "H W"))
    height, width = (size // block for size in labels.shape)
    cut = labels.long()[: height * block, : width * block].reshape(height, block, width, block)
    blocks = cut.transpose(1, 2).reshape(height, width, block * block)
    return blocks.mode(-1).values.to(labels.dtype)


def label_probabilities(rows: Tensor, labels: int, confidence: float = IRN_CONFIDENCE) -> Tensor:
    """A probability for every label from one hard label a pixel (`unary_from_labels` of pydensecrf).

    Args:
        rows: (H,W) integer 0..labels-1; any other value means unsure, where all labels are equally likely.
        labels: number of labels L.
        confidence: probability of the given label, in (0,1); the others share the rest.

    Returns:
        (L,H,W) float32, summing to 1 over L.
    """
    check_shapes(rows=(rows, "H W"))
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, needed between 0 and 1")
    if labels == 1:
        return torch.ones(1, *rows.shape, device=rows.device)
    rest = (1 - confidence) / (labels - 1)
    index = torch.arange(labels, device=rows.device)[:, None, None]
    given = torch.where(rows.long() == index, confidence, rest)
    sure = (rows.long() >= 0) & (rows.long() < labels)
    return torch.where(sure, given, 1 / labels)


def threshold_labels(
    maps: Tensor,
    class_id: Tensor,
    image: Tensor,
    refinement: Refinement,
    thresholds: tuple[float, float] = IRN_THRESHOLDS,
    confidence: float = IRN_CONFIDENCE,
    classes: int = 0,
) -> Tensor:
    """Confident labels of irn: hard seeds at two constant background scores, each refined.

    A class where the high threshold leaves one, background where both leave none, else unknown. Published with
    `IRN_KERNELS`.

    Args:
        maps: (K,H,W) float32 in [0,1].
        class_id: (K,) class ids 1..C.
        image: (H,W,3) uint8 RGB on the same device.
        refinement: a `DenseCrf` or `PixelAdaptive`.
        thresholds: background score for the foreground seeds and for the background seeds.
        confidence: probability of a seed's label before it is refined.
        classes: as for `confident_labels`.

    Returns:
        (H,W) as from `confident_labels`.
    """
    check_shapes(maps=(maps, "K H W"), class_id=(class_id, "K"))
    seeds = [with_threshold(maps, score).argmax(0) for score in thresholds]
    scores = torch.stack([label_probabilities(seed, len(maps) + 1, confidence) for seed in seeds])
    sure, likely = refinement(scores, image).argmax(1)
    dtype = label_type(max([classes, *class_id.tolist()]))
    ids = torch.cat([torch.tensor([unknown(dtype)], device=maps.device), class_id.to(maps.device).long()])
    labels = ids[sure]
    labels[(sure == 0) & (likely == 0)] = BACKGROUND
    return labels.to(dtype)
