"""The published perturbation test as its scripts have it, one picture and one share at a time; nothing from xseg."""

import numpy as np
import torch

SHARES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def perturbed(image, relevance, share, first, value=0.0):
    """A copy of `image` (3,H,W) without its `first` ("most" or "least") relevant pixels."""
    flat = torch.as_tensor(relevance).reshape(-1)
    flat = flat if first == "most" else -flat
    _, gone = torch.topk(flat, int(flat.numel() * share))
    copy = image.clone().reshape(3, -1)
    for channel in range(3):
        copy[channel, gone] = value
    return copy.reshape(image.shape)


def correctness(model, image, relevance, first, label):
    """Top-1 correctness of the intact image and at the nine shares."""
    right = [int(model(image[None]).argmax()) == label]
    for share in SHARES:
        right.append(int(model(perturbed(image, relevance, share, first)[None]).argmax()) == label)
    return right


def published_area(hits):
    """numpy's trapezoid with dx=0.1, the unperturbed accuracy included."""
    return float(np.trapezoid(hits, dx=0.1))
