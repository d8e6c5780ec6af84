"""Mean intersection over union of a segmenter on images that it did not learn from."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from xseg.datasets.index import Dataset
from xseg.errors import BadInput, Stopped
from xseg.scores.confusion import confusion_matrix, ignore_value
from xseg.scores.overlap import iou, mean_over_classes
from xseg.segmenter.network import Segmenter
from xseg.segmenter.posterior import Looks, posteriors
from xseg.training.together import Together


@dataclass(frozen=True)
class MeanIou:
    """Scores in [0, 1]; NaN of a class that is in neither truth nor prediction, which the mean leaves out.

    Attributes:
        mean: over the classes, background included.
        per_class: by name, `background` first.
        images: how many were looked at.
    """

    mean: float
    per_class: dict[str, float]
    images: int


def require_every_mask(dataset: Dataset) -> None:
    """Check before a long training that what is measured after it can be.

    Raises:
        BadInput: an image has no mask.
    """
    dataset.require_masks()
    if bare := [item.id for item in dataset.items if item.mask is None]:
        found = f"{bare[0]!r} has no mask ({len(bare)} of {len(dataset)} have none)"
        raise BadInput(f"{dataset.location}: {found}, and validation needs one of every image", "choose another split")


def validate(
    dataset: Dataset,
    segmenter: Segmenter,
    *,
    amp: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    group: Together | None = None,
) -> MeanIou:
    """Score whole images at one scale; several processes (`group`) look at every n-th each and join their counts.

    Args:
        dataset: images with masks, classes as the segmenter's.
        segmenter: on its device.
        amp: mixed precision.
        should_stop: polled between images.
        group: the processes.

    Raises:
        BadInput, InputMissing: an image or a mask cannot be read, or they do not fit.
        Stopped: `should_stop` said so, in any of the processes.
    """
    group = group or Together()
    labels = len(dataset.classes) + 1
    ignore = ignore_value(len(dataset.classes))
    counts, stopped = np.zeros((labels, labels + 1), np.int64), False
    for item in dataset.items[group.rank.number :: group.rank.count]:
        if stopped := should_stop():
            break
        image = dataset.read_image(item)
        truth = dataset.read_mask(item, (image.shape[0], image.shape[1]))
        (posterior,) = posteriors(segmenter, [image], Looks(), batch_size=1, amp=amp)
        counts += confusion_matrix(posterior.argmax(0).cpu().numpy(), truth, labels, ignore)
    if group.any(stopped):
        raise Stopped("stopped during validation", "the same command continues after the training")
    counts = group.sum_array(counts)
    found = iou(counts.diagonal(), counts.sum(0)[:-1], counts.sum(1), "present")
    per_class = dict(zip(("background", *dataset.classes), found.tolist(), strict=True))
    return MeanIou(float(mean_over_classes(found)), per_class, len(dataset.items))
