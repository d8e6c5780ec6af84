"""Small segmenters, records and photographs."""

import numpy as np
import torch
from torch import nn

from tests.classifier.nets import MODEL
from xseg.artifacts.record import Record
from xseg.classifier.model import create as create_classifier
from xseg.segmenter.network import HeadOptions, create
from xseg.segmenter.samples import Samples
from xseg.segmenter.settings import SegmenterSettings

CLASSES = ("a", "b")
CPU = torch.device("cpu")
SETTINGS = SegmenterSettings(epochs=2, batch_size=2, crop=32, lr=0.01)


def segmenter(model=MODEL, seed=0, **head):
    options = {"dropout": 0.0} if model == MODEL else {}
    classifier = create_classifier(model, CLASSES, weights="none", options=options, seed=seed)
    return create(classifier, CLASSES, HeadOptions(**{"width": 16, "dropout": 0.0, **head}), seed)


def decoder(num_classes):
    """A network that becomes finer again: stride 8, 16, and 4 at its end."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 8, 8),
        nn.Conv2d(8, 16, 2, 2),
        nn.ConvTranspose2d(16, 6, 4, 4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, num_classes),
    )


def record(index, **arrays):
    return Record(index, f"im{index}", f"im{index}.png", (40, 36), "", np.array([1, 0], np.uint8), arrays)


def mask(index):
    labels = np.zeros((40, 36), np.uint8)
    labels[8:30, 6:20] = 1 + index % 2
    labels[:, 30:] = 255
    return labels


def records(count=4):
    return [record(index, masks=mask(index)) for index in range(count)]


def picture(one):
    image = np.full((40, 36, 3), 60, np.uint8)
    image[8:30, 6:20] = (220, 60, 60) if one.index % 2 else (60, 60, 220)
    return image


def samples(count=4, **options):
    return Samples(records(count), picture, 2, **options)


def photographs(*sizes):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]
