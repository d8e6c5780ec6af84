"""Pictures and scores for the tests of labels."""

import numpy as np
import torch


def picture(height, width, noise=0.0, seed=0):
    """(H,W,3) uint8: coloured waves with an edge, plus Gaussian noise of `noise` levels."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 90 * np.sin(x / (7 + 5 * c) + y / (11 + 3 * c)) for c in range(3)]
    image = np.stack(waves, -1) + 60 * (x > width / 2)[..., None] + random.normal(0, 1, (height, width, 3)) * noise
    return torch.from_numpy(np.clip(image, 0, 255).astype(np.uint8))


def soft_scores(terms, labels, height, width, seed=0):
    """(A,L,H,W) float32 smooth random probabilities."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(terms, labels, 4, 5, generator=generator) * 2
    full = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return full.softmax(1)
