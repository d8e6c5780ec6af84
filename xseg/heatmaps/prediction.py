"""What the classifier itself says is in an image."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from xseg.classifier.model import Classifier
from xseg.device import autocast, halving
from xseg.heatmaps.batches import device_of, equal_sized, sides_of, stack
from xseg.heatmaps.layers import evaluating
from xseg.heatmaps.views import Views, resize_images, views_for


def predict_images(
    classifier: Classifier,
    images: Sequence[np.ndarray],
    *,
    size: int | None = None,
    batch_size: int = 8,
    amp: bool = False,
) -> np.ndarray:
    """Class probabilities at scale 1, for targets chosen by the classifier itself.

    Args:
        classifier: as in `explain_images`, and so are `size`, `batch_size`, `amp`.
        images: N images (H,W,3) uint8.
        size: long side in pixels.
        batch_size: images per forward pass.
        amp: mixed precision (accelerators only).

    Returns:
        (N,C) float32 in [0,1].

    Raises:
        Unavailable: the device's memory does not hold one image.
    """

    def probabilities(view: Tensor) -> Tensor:
        with autocast(view.device, amp):
            logits = classifier(view)
        return classifier.probabilities(logits.float())

    found = ask_images(classifier, images, probabilities, size=size, batch_size=batch_size)
    return found.reshape(-1, len(classifier.config.classes))


def ask_images(
    classifier: Classifier,
    images: Sequence[np.ndarray],
    answer: Callable[[Tensor], Tensor],
    *,
    size: int | None = None,
    batch_size: int = 8,
) -> np.ndarray:
    """One vector for each image, of what the classifier sees at scale 1; equally large images are asked together.

    Args:
        classifier: as in `explain_images`, and so are `size` and `batch_size`.
        images: N images (H,W,3) uint8.
        answer: vectors (n,K) of normalised images (n,3,h,w); called in evaluation mode, without gradients.
        size: long side in pixels.
        batch_size: images per forward pass.

    Returns:
        (N,K) float32.

    Raises:
        Unavailable: the device's memory does not hold one image.
    """
    device = device_of(classifier)
    views = views_for(classifier, Views(size=size))
    rows: dict[int, np.ndarray] = {}

    def ask(chosen: Sequence[int]) -> list[np.ndarray]:
        pixels = stack([images[i] for i in chosen]).to(device)
        view = resize_images(pixels, views.shape(sides_of(pixels), 1.0))
        with torch.no_grad():
            return list(answer(classifier.normalise(view)).cpu().numpy())

    with evaluating(classifier):
        for batch in equal_sized(images, range(len(images)), batch_size):
            rows.update(zip(batch, halving(ask, batch), strict=True))
    return np.array([rows[i] for i in range(len(images))], np.float32)
