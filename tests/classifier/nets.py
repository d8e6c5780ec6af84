"""Small networks and a data set in memory, for the tests of training."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

CLASSES = ("red", "green", "blue")
MODEL = "tests.classifier.nets:tiny"


def tiny(num_classes: int, dropout: float = 0.2) -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(inplace=True)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(16, num_classes),
    )


def not_a_net(num_classes: int) -> str:
    return f"{num_classes} classes"


@dataclass(frozen=True)
class FakeItem:
    id: str
    number: int


class FakeDataset:
    """Noise images; each class present tints a corner of the image with its colour."""

    def __init__(self, count: int, seed: int = 0, single: bool = False, unknown: bool = False):
        random = np.random.default_rng(seed)
        self.location, self.classes = Path("fake"), CLASSES
        self.items = tuple(FakeItem(f"image{k}", k) for k in range(count))
        present = random.random((count, 3)) < 0.5
        self.labels = (np.eye(3)[random.integers(0, 3, count)] if single else present).astype(np.uint8)
        self.sizes = [(int(h), int(w)) for h, w in random.choice([24, 32, 40], (count, 2))]
        if unknown:
            self.labels[random.random((count, 3)) < 0.3] = 255

    def __len__(self) -> int:
        return len(self.items)

    def read_image(self, item: FakeItem) -> np.ndarray:
        height, width = self.sizes[item.number]
        image = np.random.default_rng(item.number).integers(0, 128, (height, width, 3)).astype(np.uint8)
        for c in range(3):
            if self.labels[item.number, c] == 1:
                image[: height // 2, : width // 2, c] += 127
        return image

    def label_vector(self, item: FakeItem) -> np.ndarray:
        return self.labels[item.number].copy()
