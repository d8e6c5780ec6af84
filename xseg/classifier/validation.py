"""How well a classifier ranks the images of a labelled set."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xseg.classifier.metrics import average_precision, mean_average_precision
from xseg.classifier.model import Classifier
from xseg.classifier.samples import label_matrix, whole_images
from xseg.classifier.sides import side_steps, takes_one_size
from xseg.datasets import Dataset
from xseg.device import halving
from xseg.errors import BadInput, InputMissing, Stopped
from xseg.training.together import Together

Answer = Callable[[Tensor], Tensor]


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
    labels = label_matrix(dataset)
    scores = ask_all(
        dataset, classifier, classifier, labels.shape[1], device=device, long_side=long_side, batch_size=batch_size,
        workers=workers, should_stop=should_stop, group=group,
    )  # fmt: skip
    per_class = average_precision(scores, labels)
    return Validation(per_class, mean_average_precision(per_class), len(labels))


def ask_all(
    dataset: Dataset,
    classifier: Classifier,
    answer: Answer,
    width: int,
    *,
    device: torch.device,
    long_side: int | None,
    batch_size: int,
    workers: int,
    should_stop: Callable[[], bool],
    group: Together | None,
) -> np.ndarray:
    """What is answered about every image; several processes (`group`) ask about every n-th each and join the answers.

    Args:
        dataset: images.
        classifier: the network.
        answer: (n,K) of normalised images (n,3,h,w).
        width: K.
        device: as in `validate`, and so is the rest.
        long_side: of the images.
        batch_size: images at once.
        workers: threads that decode.
        should_stop: asked before every batch.
        group: the processes.

    Returns:
        (N,K) float32.

    Raises:
        Stopped: `should_stop` said so, in any of the processes.
    """
    classifier.to(device).eval()
    group = group or Together()
    own = range(group.rank.number, len(dataset.items), group.rank.count)
    found, stopped = np.zeros((len(dataset.items), width), np.float32), False
    seen = answers_of(
        dataset, classifier, answer, device=device, long_side=long_side, batch_size=batch_size, workers=workers,
        chosen=own,
    )  # fmt: skip
    with closing(seen) as batches:
        for indices, rows in batches:
            if stopped := should_stop():
                break
            found[indices] = rows
    if group.any(stopped):
        raise Stopped("stopped during validation", "the same command continues after the training")
    return group.sum_array(found)


@torch.no_grad()
def answers_of(
    dataset: Dataset,
    classifier: Classifier,
    answer: Answer,
    *,
    device: torch.device,
    long_side: int | None,
    batch_size: int,
    workers: int,
    chosen: Sequence[int] | None = None,
    fixed: tuple[int, int] | None = None,
    failed: Callable[[int, BadInput | InputMissing], None] | None = None,
) -> Generator[tuple[list[int], np.ndarray], None, None]:
    """What is answered about whole images, in the sizes that a classifier takes; it is in evaluation mode on `device`.

    Args:
        dataset: images.
        classifier: the network.
        answer: (n,K) of normalised images (n,3,h,w): the classifier itself for its logits.
        device: where it is.
        long_side: of the images as it sees them; as `batch_size`, `workers`, `chosen`, `fixed` and `failed` in
            `whole_images`.
        batch_size: images at once.
        workers: threads that decode.
        chosen: indices of the images wanted.
        fixed: height and width; None: that of a network that takes no other, else none.
        failed: told of images that cannot be read.

    Yields:
        Indices into `dataset.items`, and (n,K) float32.

    Raises:
        BadInput, InputMissing: an image cannot be read, and nobody is to be told.
        Unavailable: the device's memory does not hold one image.
    """

    def score(images: Sequence[Tensor]) -> list[np.ndarray]:
        rows = answer(classifier.normalise(torch.stack(list(images)).to(device)))
        return list(rows.float().cpu().numpy())

    if fixed is None and takes_one_size(classifier.net):
        fixed = classifier.config.input_size
    batches = whole_images(
        dataset,
        long_side,
        batch_size=batch_size,
        workers=workers,
        chosen=chosen,
        fixed=fixed,
        steps=side_steps(classifier.net),
        failed=failed,
    )
    with closing(batches):
        for indices, images in batches:
            rows = halving(score, list(images))
            yield indices, np.stack(rows)


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
