"""The tiny networks of the fixtures of published code (shared/reference/fixtures, A), as classifiers in float64."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from xseg.classifier import Classifier, ClassifierConfig

VGG_NAMES = ("agf_vgg", "agf_vgg_bn", "agf_vgg_pool")
RESNET_NAMES = ("agf_resnet_basic", "agf_resnet_bottleneck")
NAMES = (*VGG_NAMES, *RESNET_NAMES)


class Vgg(nn.Module):
    """Three convolutions, two max-pools, an adaptive mean to `side` x `side`, three linear layers; nothing in place."""

    def __init__(self, norm: bool, side: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_conv(3, 8, norm), *_conv(8, 8, norm), nn.MaxPool2d(2), *_conv(8, 16, norm), nn.MaxPool2d(2)
        )
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        self.flatten = nn.Flatten()
        linear = (nn.Linear(16 * side * side, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 24), nn.ReLU(), nn.Dropout())
        self.classifier = nn.Sequential(*linear, nn.Linear(24, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


def _conv(inputs: int, outputs: int, norm: bool) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), *([nn.BatchNorm2d(outputs)] if norm else []), nn.ReLU()]


class Block(nn.Module):
    """A residual block: convolutions of the given kernel sizes with batch norm, and a sum with the (projected) input.

    One ReLU module serves every place, as in torchvision.
    """

    def __init__(self, inputs: int, width: int, kernels: tuple[int, ...], expansion: int, stride: int) -> None:
        super().__init__()
        sizes = [inputs, *[width] * (len(kernels) - 1), width * expansion]
        strided = kernels.index(3)
        for i, kernel in enumerate(kernels):
            step = stride if i == strided else 1
            conv = nn.Conv2d(sizes[i], sizes[i + 1], kernel, step, kernel // 2, bias=False)
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(sizes[i + 1]))
        self.relu = nn.ReLU()
        self.count = len(kernels)
        self.downsample: nn.Module | None = None
        if stride > 1 or inputs != sizes[-1]:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, sizes[-1], 1, stride, bias=False), nn.BatchNorm2d(sizes[-1])
            )

    def forward(self, x: Tensor) -> Tensor:
        hidden = x
        for i in range(1, self.count + 1):
            hidden = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(hidden))
            hidden = self.relu(hidden) if i < self.count else hidden
        return self.relu(hidden + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A torchvision-style ResNet of four layers with [2,1,1,2] blocks."""

    def __init__(self, widths: tuple[int, ...], kernels: tuple[int, ...], expansion: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = widths[0]
        for i, (width, count) in enumerate(zip(widths, (2, 1, 1, 2), strict=True)):
            blocks = []
            for j in range(count):
                blocks.append(Block(inputs, width, kernels, expansion, 2 if i and not j else 1))
                inputs = width * expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inputs, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for i in range(1, 5):
            hidden = getattr(self, f"layer{i}")(hidden)
        return self.fc(self.flatten(self.avgpool(hidden)))


def _build(name: str) -> tuple[nn.Module, str, str]:
    """The network, and the paths of the target layer of its published Grad-CAM baseline and of its head."""
    if name in VGG_NAMES:
        norm = name == "agf_vgg_bn"
        return Vgg(norm, 3 if name == "agf_vgg_pool" else 8), f"features.{10 if norm else 7}", "classifier.6"
    if name == "agf_resnet_basic":
        return ResNet((6, 8, 10, 12), (3, 3), 1), "layer4", "fc"
    return ResNet((4, 4, 6, 8), (1, 3, 1), 4), "layer4", "fc"


def fixture(shared: Callable[[str], Path], name: str) -> tuple[Classifier, dict[str, np.ndarray]]:
    """The classifier of a fixture file, and the file's arrays.

    Args:
        shared: the pytest fixture that finds files kept beside the repository, or skips.
        name: one of `NAMES`.

    Returns:
        The classifier in float64 and evaluation mode, with the stored weights, and the arrays by name (`input`,
        `targets`, `logits`, `map/...` ...; the weights `sd/...` included).
    """
    with np.load(shared(f"reference/fixtures/{name}.npz"), allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    net, layer, head = _build(name)
    net.load_state_dict({k[3:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("sd/")})
    height, width = arrays["input"].shape[2:]
    classes = tuple(f"class{k}" for k in range(5))
    config = ClassifierConfig(f"tests:{name}", classes, layer=layer, head=head, input_size=(height, width))
    return Classifier(config, net).double().eval(), arrays
