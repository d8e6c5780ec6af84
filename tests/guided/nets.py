"""Small networks with a logit for the background, and batches in memory."""

from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from xseg.classifier import Classifier, ClassifierConfig

CLASSES = ("cat", "dog", "horse")


class Residual(nn.Module):
    """Convolutions, batch norms, a maximum and a mean pool, a residual sum with a projection, a linear head."""

    def __init__(self, logits, activation=nn.ReLU):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 1, 1)
        self.norm = nn.BatchNorm2d(6)
        self.act = activation()
        self.pool = nn.MaxPool2d(2)
        self.main = nn.Sequential(nn.Conv2d(6, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8))
        self.side = nn.Conv2d(6, 8, 1)
        self.mean = nn.AvgPool2d(2)
        self.fc = nn.Linear(8, logits)

    def forward(self, x):
        x = self.pool(self.act(self.norm(self.stem(x))))
        x = self.mean(self.act(self.main(x) + self.side(x)))
        return self.fc(x.mean((2, 3)))


def wrap(net, background=True, heatmap=("lrp",), layer="mean", seed=0, **config):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(1 + 0.2 * torch.randn(module.weight.shape, generator=generator))
                module.running_mean.copy_(0.1 * torch.randn(module.weight.shape, generator=generator))
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    given = {"layer": layer, "head": "fc", "input_size": (16, 16), "background": background, "heatmap": heatmap}
    return Classifier(ClassifierConfig("tests:net", CLASSES, **(given | config)), net).eval()


def residual(background=True, activation=nn.ReLU, **config):
    return wrap(Residual(len(CLASSES) + background, activation), background, **config)


def plain(background=True):
    """Convolutions and a linear head, as a VGG: what can be written down as an auto-encoder by hand."""
    parts = OrderedDict(
        conv1=nn.Conv2d(3, 5, 3, padding=1),
        act1=nn.ReLU(),
        pool=nn.MaxPool2d(2),
        conv2=nn.Conv2d(5, 6, 3, stride=2, padding=1),
        act2=nn.ReLU(),
        flat=nn.Flatten(),
        fc=nn.Linear(6 * 4 * 4, len(CLASSES) + background),
    )
    return wrap(nn.Sequential(parts), background, layer="act2")


def some_batch(count=4, side=16, seed=0, masked=(0, 1), regions=()):
    """A batch as `GuidedBatches` makes it."""
    random = np.random.default_rng(seed)
    mask = np.full((count, side, side), -1)
    labels = (random.random((count, len(CLASSES))) < 0.5).astype(np.uint8)
    region = np.zeros((count, side, side), bool)
    for place in masked:
        mask[place] = random.integers(-1, len(CLASSES) + 1, (side, side))
        mask[place, :4] = 0
        labels[place] = [(mask[place] == k).any() for k in range(1, len(CLASSES) + 1)]
    for place in regions:
        region[place, 2:6, 3:9] = True
    return {
        "images": torch.from_numpy(random.integers(0, 256, (count, 3, side, side), dtype=np.uint8)),
        "valid": torch.tensor([[0, 0, side, side]] * count),
        "labels": torch.from_numpy(labels),
        "mask": torch.from_numpy(mask),
        "masked": torch.tensor([place in masked for place in range(count)]),
        "region": torch.from_numpy(region),
        "draw": torch.from_numpy(random.integers(0, 1 << 40, count)),
    }
