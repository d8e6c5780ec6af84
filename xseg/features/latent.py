"""The latent vector of an image: what the head reads, or one layer's output, averaged over places."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from xseg.classifier.capture import capture
from xseg.classifier.model import Classifier
from xseg.errors import UsageError
from xseg.heatmaps.layers import evaluating, probe_images
from xseg.heatmaps.prediction import ask_images

# Largest difference between the logits and the head applied to the latent vector, as a fraction of the largest logit.
_AGREEMENT = 1e-3


def latent_images(
    classifier: Classifier,
    images: Sequence[np.ndarray],
    *,
    layer: str | None = None,
    size: int | None = None,
    batch_size: int = 8,
) -> np.ndarray:
    """Latent vectors of whole images, never in mixed precision.

    Args:
        classifier: as in `explain_images`, and so are `size` and `batch_size`.
        images: N images (H,W,3) uint8.
        layer: module path whose output is averaged; None: what the head reads.
        size: long side in pixels.
        batch_size: images per forward pass.

    Returns:
        (N,F) float32.

    Raises:
        UsageError: no such layer, or one whose output is no stack of features.
        Unavailable: the device's memory does not hold one image.
    """
    return ask_images(
        classifier, images, lambda view: latents(classifier, view, layer), size=size, batch_size=batch_size
    )


def latents(classifier: Classifier, images: Tensor, layer: str | None = None) -> Tensor:
    """Latent vectors (N,F) of normalised images (N,3,H,W); `layer` as in `latent_images`.

    The mean is over all places of a map (N,F,h,w) and over all tokens of a sequence (N,T,F).

    Raises:
        UsageError: no such layer, one that is never run, or one whose output is none of these.
    """
    if layer is None:
        with _head_input(classifier) as seen:
            classifier(images)
        # a 1x1 convolution has its channels first, a linear layer last
        return _mean(seen[-1], last=not isinstance(classifier.head, nn.Conv2d))
    with capture(classifier, [layer]) as features:
        classifier(images)
    if layer not in features:
        raise UsageError(f"--layer {layer}: this module is never run", "choose another layer")
    found = features[layer]
    if not 2 <= found.ndim <= 4 or not found.is_floating_point():
        raise UsageError(
            f"--layer {layer}: its output has shape {tuple(found.shape)}, needed (N,F), (N,T,F) or (N,F,h,w)",
            "choose another layer",
        )
    return _mean(found, last=found.ndim == 3 or getattr(classifier.net, "output_fmt", "NCHW") != "NCHW")


def scores(classifier: Classifier, latent: Tensor) -> Tensor:
    """The head applied to latent vectors (N,F): (N,C) float64 on the CPU, for not every device has double precision."""
    head = {name: values.detach().cpu().double() for name, values in classifier.head.named_parameters()}
    return functional.linear(latent.detach().cpu().double(), head["weight"].flatten(1), head.get("bias"))


def head_disagrees(classifier: Classifier) -> str | None:
    """Why the logits are not the head applied to the latent vector that it reads; None if they are."""
    with evaluating(classifier), torch.no_grad():
        images = probe_images(classifier)
        logits, latent = classifier(images).cpu().double(), latents(classifier, images)
        found = scores(classifier, latent)
    if found.shape == logits.shape and (found - logits).abs().amax() <= _AGREEMENT * logits.abs().amax():
        return None
    path = classifier.config.head
    return f"the logits are not those that the head {path} makes of the mean of what it reads: more comes after it"


@contextmanager
def _head_input(classifier: Classifier) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    handle = classifier.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    try:
        yield seen
    finally:
        handle.remove()


def _mean(values: Tensor, *, last: bool) -> Tensor:
    """The mean over all axes but the first and that of the features, which is the `last` or the second."""
    axes = tuple(range(1, values.ndim - 1) if last else range(2, values.ndim))
    return values.float().mean(axes) if axes else values.float()
