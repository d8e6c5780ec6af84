"""How well a classifier ranks the images of a labelled set."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xseg.classifier.metrics import average_precision, mean_average_precision
from xseg.classifier.model import Classifier
from xseg.classifier.samples import label_matrix, whole_images
from xseg.datasets import Dataset
from xseg.device import halving
from xseg.errors import BadInput, Stopped
from xseg.training.together import Together


@dataclass(frozen=True)
class Validation:
    """Ranking quality on a labelled set.

    Args:
        average_precision: (C,) float64 in [0, 1], NaN for a class without a present image.
        mean: mean over the classes that have one; None if none has.
        images: number of images.
    """

    average_precision: np.ndarray
    mean: float | None
    images: int


@torch.no_grad()
def validate(
    dataset: Dataset,
    classifier: Classifier,
    *,
    device: torch.device,
    long_side: int | None,
    batch_size: int = 16,
    workers: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
    group: Together | None = None,
) -> Validation:
    """Average precision per class on whole images, resized to a long side (pixels; None keeps their size).

    Several processes (`group`) look at every n-th image each and join their scores.

    Raises:
        BadInput: its classes are not the classifier's.
        Stopped: `should_stop` said so.
    """
    require_classes(dataset, classifier)
    classifier.to(device).eval()
    labels = label_matrix(dataset)
    scores = np.zeros(labels.shape, np.float32)

    def score(images: Sequence[Tensor]) -> list[np.ndarray]:
        logits = classifier(classifier.normalise(torch.stack(list(images)).to(device)))
        return list(logits.float().cpu().numpy())

    group = group or Together()
    own = range(group.rank.number, len(dataset.items), group.rank.count)
    stopped = False
    with closing(whole_images(dataset, long_side, batch_size=batch_size, workers=workers, chosen=own)) as batches:
        for indices, images in batches:
            if stopped := should_stop():
                break
            scores[indices] = halving(score, list(images))
    if group.any(stopped):
        raise Stopped("stopped during validation", "the same command continues after the training")
    scores = group.sum_array(scores)
    per_class = average_precision(scores, labels)
    return Validation(per_class, mean_average_precision(per_class), len(labels))


def require_classes(dataset: Dataset, classifier: Classifier) -> None:
    """Check that labels and logits mean the same classes in the same order.

    Raises:
        BadInput: they do not; the first difference is named.
    """
    own, given = classifier.config.classes, dataset.classes
    if len(own) != len(given):
        problem = f"{len(given)} classes, the classifier {len(own)}"
    elif own != given:
        place = next(k for k in range(len(own)) if own[k] != given[k])
        problem = f"class {place + 1} = {given[place]!r}, the classifier {own[place]!r}"
    else:
        return
    raise BadInput(f"{dataset.location} has {problem}", "names and order have to agree")
