"""The AlexNet of self-supervised learning, which neither timm nor torchvision has."""

from torch import Tensor, nn

_WIDTHS = (96, 256, 384, 384, 256)
_KERNELS = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))  # size, stride, padding
_POOLED = (0, 1, 4)


class AlexNetBN(nn.Module):
    """AlexNet with batch norms and the widths of Caffe's, with the names of DeepCluster's and SeLa's checkpoints.

    Args:
        num_classes: outputs of the head, `top_layer`.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, (before, width) in enumerate(zip((3, *_WIDTHS[:-1]), _WIDTHS, strict=True)):
            size, stride, padding = _KERNELS[number]
            layers += [nn.Conv2d(before, width, size, stride, padding), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            if number in _POOLED:
                layers.append(nn.MaxPool2d(3, 2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(6)  # the identity at 224 pixels, as published; other sizes become possible
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(256 * 6 * 6, 4096), nn.ReLU(inplace=True),
            nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.top_layer = nn.Linear(4096, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N,C) of normalised images (N,3,H,W)."""
        return self.top_layer(self.classifier(self.pool(self.features(images)).flatten(1)))
