"""A new head that starts from the old one: each new class begins as a blend of the old classes its images call up.

Uses image-level labels only. Compared with a random head it needs less training, and training that moves the features
less keeps them about objects rather than about their surroundings (as linear probing before fine-tuning does: Kumar et
al. 2022, arXiv:2202.10054).
"""

from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from xseg.classifier.hybrid import HybridShape, head_in_tokens
from xseg.classifier.model import Classifier
from xseg.classifier.samples import label_matrix, whole_images
from xseg.datasets.index import Dataset
from xseg.device import halving
from xseg.errors import Stopped
from xseg.shapes import check_shapes

LARGEST_SHARE = 60  # old classes that one new class may blend
CERTAINTY = 0.75  # share of an old class's (class-balanced) mass that must lie in images of the new one


def blended_head(old: Tensor, probabilities: Tensor, labels: Tensor) -> Tensor:
    """Weights of a new head as blends of an old one's.

    With p+ and p- the mean probability of an old class in images with and without the new class, the old classes for
    which p+ / (p+ + p-) > 0.75 are blended with weights max(p+ - p-, 0), the 60 largest of them, summing to 1. The old
    weights are centred first: what all old classes share tells none apart.

    Args:
        old: (K, D) weights of the old head.
        probabilities: (N, K) of the old classes in N images, each row summing to 1.
        labels: (N, C) 1 present, 0 absent, 255 unknown.

    Returns:
        (C, D) in the dtype of `old`; zeros for a class without images or without a related old class.
    """
    sizes = check_shapes(old=(old, "K D"), probabilities=(probabilities, "N K"), labels=(labels, "N C"))
    centred = old - old.mean(0)
    given = probabilities.double()
    rows = []
    for column in labels.T:
        present, absent = column == 1, column == 0
        if not present.any():
            rows.append(torch.zeros_like(centred[0]))
            continue
        with_it = given[present].mean(0)
        without = given[absent].mean(0) if absent.any() else torch.zeros_like(with_it)
        certain = with_it / (with_it + without + 1e-12) > CERTAINTY
        lift = torch.where(certain, with_it - without, 0).clamp(min=0)
        chosen = lift.topk(min(LARGEST_SHARE, sizes["K"])).indices
        share = torch.zeros_like(lift)
        share[chosen] = lift[chosen]
        share = share / share.sum().clamp(min=1e-12)
        rows.append(share.to(centred) @ centred)
    return torch.stack(rows)


@torch.no_grad()
def transfer_head(
    classifier: Classifier,
    former: Classifier,
    dataset: Dataset,
    *,
    long_side: int = 256,
    batch_size: int = 16,
    workers: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Give `classifier` a head blended from that of `former`, the same network with the weights' own classes.

    Args:
        classifier: its head's weight is set, its bias (if any) becomes 0; on the device of `former`.
        former: in evaluation mode; where `classifier` is a hybrid it may be the stem's own classifier.
        dataset: images with image-level labels.
        long_side: of the images as the former network sees them, pixels.
        batch_size: images at once.
        workers: threads that decode.
        should_stop: polled between batches.
        progress: told how many more images are done.

    Raises:
        Stopped: `should_stop` said so.
    """
    device = next(former.parameters()).device
    found = np.zeros((len(dataset), len(former.config.classes)), np.float32)

    def predict(images: Sequence[Tensor]) -> list[Tensor]:
        logits = former(former.normalise(torch.stack(list(images)).to(device)))
        return list(logits.float().softmax(1).cpu())

    with closing(whole_images(dataset, long_side, batch_size=batch_size, workers=workers)) as batches:
        for indices, images in batches:
            if should_stop():
                raise Stopped("stopped by a signal before training", "run the same command again")
            found[indices] = torch.stack(halving(predict, list(images))).numpy()
            progress(len(indices))
    old = former.head.get_parameter("weight").flatten(1)
    made = blended_head(old.cpu(), torch.from_numpy(found), torch.from_numpy(label_matrix(dataset).astype(np.int64)))
    if classifier.config.model == HybridShape.kind != former.config.model:
        made = head_in_tokens(classifier.net, made)
    for name, parameter in classifier.head.named_parameters():
        parameter.copy_(made.view_as(parameter).to(parameter) if name == "weight" else torch.zeros_like(parameter))
