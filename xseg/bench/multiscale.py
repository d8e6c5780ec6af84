"""A case about class activation maps over several scales and the mirror image, against psa's loop (`infer_cls.py`)."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from xseg.bench.explanations import random_network, scaled
from xseg.bench.measure import Case
from xseg.classifier.model import Classifier
from xseg.heatmaps import methods
from xseg.heatmaps.inference import explain_images
from xseg.heatmaps.views import resize_images, resize_maps

_SCALES = (1.0, 0.5, 1.5, 2.0)
_IMAGES = 2
_CLASSES = 20  # classes whose maps the loop resamples, absent ones as well; those of VOC
_ASKED = (4, 9)


def multiscale_case(height: int, width: int) -> Case:
    """CAM of two classes at four scales with mirror images, pictures of one size."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (height, width, 3), np.uint8) for _ in range(_IMAGES)]

    def ours() -> Tensor:
        asked, ids = [tuple(c + 1 for c in _ASKED)] * _IMAGES, [str(i) for i in range(_IMAGES)]
        found = explain_images(
            random_network("resnet50"), methods.create("cam"), images, asked, ids, scales=_SCALES, flip=True
        )
        return scaled(torch.cat([torch.from_numpy(one.maps) for one in found]))

    return Case(
        f"cam resnet50 {height}x{width}, {_IMAGES} images, 4 scales and mirrored, against psa's loop",
        lambda: scaled(torch.cat([_loop(random_network("resnet50"), image) for image in images])),
        ours,
        1e-4,
    )


@torch.no_grad()
def _loop(classifier: Classifier, image: np.ndarray) -> Tensor:
    """Maps of one image: each view by itself, the maps of all classes resampled, then those absent set to zero."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    height, width = image.shape[:2]
    *trunk, _, head = classifier.net.children()
    weight = dict(head.named_parameters())["weight"][:_CLASSES, :, None, None]
    present = torch.zeros(_CLASSES, 1, 1)
    present[list(_ASKED)] = 1
    total = torch.zeros(_CLASSES, height, width)
    for scale in _SCALES:
        view = classifier.normalise(resize_images(pixels, (round(height * scale), round(width * scale))))
        for mirrored in (False, True):
            features = view.flip(-1) if mirrored else view
            for layer in trunk:
                features = layer(features)
            maps = resize_maps(functional.conv2d(features, weight).relu()[0], (height, width)) * present
            total += maps.flip(-1) if mirrored else maps
    return total[list(_ASKED)]
