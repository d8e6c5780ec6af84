"""Networks for the relevance engine: one with a bit of everything, and how relevance is asked for per colour."""

import torch
from torch import nn
from torch.nn import functional

from tests.heatmaps.nets import wrap
from xseg.heatmaps import methods
from xseg.heatmaps.relevance.tape import record


class Everything(nn.Module):
    """Pools, a depthwise convolution, a gate, a residual sum, two up-samplings, a transposed and a dilated convolution.

    Args:
        act: the activation's constructor.
        bias: of the layers with weights.
        norm: batch norm after the stem and, on its own, after the concatenation.
    """

    def __init__(self, act=nn.ReLU, bias=True, norm=False):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=bias)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.act = act()
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=bias)
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1, bias=bias), nn.Sigmoid())
        self.project = nn.Conv2d(8, 8, 1, bias=bias)
        self.down = nn.AvgPool2d(2)
        self.dilated = nn.Conv2d(8, 6, 3, padding="same", dilation=2, bias=bias)
        self.up = nn.ConvTranspose2d(6, 6, 2, 2, groups=2, bias=bias)
        self.joined = nn.BatchNorm2d(22) if norm else nn.Identity()
        self.mix = nn.Conv2d(22, 6, 3, 1, 1, bias=bias)
        self.fc = nn.Linear(6, 4, bias=bias)

    def forward(self, x):
        x = self.pool(self.act(self.norm(self.stem(x))))
        hidden = self.act(self.depthwise(x))
        x = self.project(hidden * self.squeeze(hidden)) + x
        low = self.act(self.dilated(self.down(x)))
        smooth = functional.interpolate(self.down(x), scale_factor=2, mode="bilinear", align_corners=False)
        x = torch.cat([x, self.up(low), functional.interpolate(smooth[:, :8], scale_factor=1.0)], 1)
        x = self.act(self.mix(self.joined(x)))
        return self.fc(x.mean((2, 3)))


def everything(act=nn.ReLU, bias=True, norm=False, seed=0):
    """`Everything` in float64 with random weights and, where there are any, random running statistics."""
    classifier = wrap(Everything(act, bias, norm), seed=seed, layer="mix").double()
    return with_statistics(classifier)


def with_statistics(classifier, seed=0):
    """The classifier with batch norms that do something: mean 0 +- 0.3, variance 0.5 to 1.5, weight 0.5 to 1.5."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in classifier.modules():
            if getattr(module, "running_var", None) is not None:
                for values, low, high in ((module.running_mean, -0.3, 0.3), (module.running_var, 0.5, 1.5)):
                    values.copy_(torch.rand(values.shape, generator=generator) * (high - low) + low)
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
    return classifier


def walker_of(classifier, images, name, settings=()):
    """The walker of a method over a recorded batch."""
    method = methods.create(name, settings)
    return method.walker(classifier, record(classifier, images, graph=method.needs_gradients))


def relevance(classifier, images, target, settings=()):
    """LRP's relevance (N,3,H,W) of one class of every image, started with its logit."""
    with torch.no_grad():
        walker = walker_of(classifier, images, "lrp", settings)
        start = torch.zeros_like(walker.tape.logits)
        start[:, target] = walker.tape.logits[:, target]
        return walker.walk(start[None])[0]
