"""How well single images are segmented: the same counts as the score of a whole set, image by image."""

from xseg.scores.counts import CountTable
from xseg.scores.overlap import Floats, iou


def image_ious(table: CountTable) -> dict[str, Floats]:
    """Intersection over union of every image and class, over the pixels whose truth is known.

    Args:
        table: counts of a set at one threshold.

    Returns:
        Name of the image -> (L,) fractions, background first; NaN for a class in neither its truth nor its prediction.
    """
    true_positive, predicted, truth = table.dense().transpose(2, 0, 1)
    return dict(zip(table.images, iou(true_positive, predicted, truth, "present"), strict=True))
