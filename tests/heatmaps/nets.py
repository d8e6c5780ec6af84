"""Small random networks wrapped as classifiers, and random pictures."""

from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from xseg.classifier import Classifier, ClassifierConfig
from xseg.classifier.multi_task import PART, MultiTaskShape, multi_task_unet
from xseg.device import torchvision_ready
from xseg.heatmaps import Query

CLASSES = ("cat", "dog", "horse", "boat")


def body(bias=True):
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, 2, 1, bias=bias), nn.ReLU(inplace=True), nn.Conv2d(5, 6, 3, 2, 1, bias=bias), nn.ReLU()
    )


def wrap(net, classes=CLASSES, seed=0, **config):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    given = {"layer": "features", "head": "fc", "input_size": (32, 32)} | config
    return Classifier(ClassifierConfig("tests:net", tuple(classes), **given), net).eval()


def pooled(classes=CLASSES, **kwargs):
    """Features, global mean, dropout, linear head."""
    parts = OrderedDict(
        features=body(),
        pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        drop=nn.Dropout(),
        fc=nn.Linear(6, len(classes)),
    )
    return wrap(nn.Sequential(parts), classes, **kwargs)


def smooth():
    """`pooled` with softplus for ReLU: a gradient that rounding cannot make jump at a kink."""
    classifier = pooled()
    classifier.net.features[1], classifier.net.features[3] = nn.Softplus(), nn.Softplus()
    return classifier


def attending(classes=CLASSES, seed=5, **config):
    """A transformer for methods that read attention: patches of 4 pixels, two blocks, a class token, dropout."""
    torchvision_ready()
    from timm.models.vision_transformer import VisionTransformer

    shape = {"img_size": 32, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2, "mlp_ratio": 2}
    net = VisionTransformer(
        **shape, num_classes=len(classes), drop_rate=0.5, dynamic_img_size=True, dynamic_img_pad=True
    )
    # the seed is of a network in which the terms of no residual sum all but cancel
    return wrap(net, classes, seed, **{"layer": "patch_embed.proj", "head": "head"} | config)


def segmenting(classes=CLASSES, **config):
    """A multi-task U-Net, for the method that reads its decoder."""
    torchvision_ready()
    shape = MultiTaskShape(encoder="test_efficientnet", width=4, fine=8, drop_rate=0.5)
    paths = {"layer": f"{PART}.bn2", "head": f"{PART}.classifier"}
    return wrap(multi_task_unet(shape, len(classes)), classes, **(paths | config))


def network_for(method, classes=CLASSES, **config):
    """The first of `pooled`, `attending` and `segmenting` that the method serves."""
    made = (make(classes, **config) for make in (pooled, attending, segmenting))
    return next(classifier for classifier in made if method.serves(classifier) is None)


def parts(classifier):
    """Head, a convolution, a module that drops out, and the path of a module that runs early."""
    net = classifier.net
    if hasattr(net, "features"):
        return net.fc, net.features[2], net.drop, "features.0"
    if hasattr(net, "segment"):
        return net.get_submodule(f"{PART}.classifier"), net.segment, net.drop, f"{PART}.conv_stem"
    return net.head, net.patch_embed.proj, net.head_drop, "patch_embed.proj"


def convolutional():
    """Features, dropout, 1x1 convolution without bias, global mean: the head of PSA's VGG16."""
    parts = OrderedDict(
        features=body(), drop=nn.Dropout(), fc=nn.Conv2d(6, 4, 1, bias=False), pool=nn.AdaptiveAvgPool2d(1)
    )
    return wrap(nn.Sequential(parts))


def deep():
    """Features, 2x2 pooling, two linear layers with an in-place ReLU between them."""
    parts = OrderedDict(
        features=body(),
        pool=nn.AdaptiveAvgPool2d(2),
        flat=nn.Flatten(),
        fc1=nn.Linear(24, 7),
        act=nn.ReLU(inplace=True),
        fc=nn.Linear(7, 4),
    )
    return wrap(nn.Sequential(parts))


def max_pooled():
    """A linear head on the right number of channels, but behind a maximum: what CAM must not accept."""
    parts = OrderedDict(features=body(), pool=nn.AdaptiveMaxPool2d(1), flat=nn.Flatten(), fc=nn.Linear(6, 4))
    return wrap(nn.Sequential(parts))


def state_of(classifier):
    return {key: value.double().numpy() for key, value in classifier.net.state_dict().items()}


def picture(height=64, width=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def normalised(count=3, height=32, width=40, seed=0):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def ask(images, pairs, **kwargs):
    image, target = torch.tensor(pairs, device=images.device).unbind(1)
    ids = kwargs.pop("ids", tuple(f"image{i}" for i in range(len(images))))
    return Query(images, image, target, ids, **kwargs)


class Forwards:
    """Counts forward passes of a module inside a `with`."""

    def __init__(self, module):
        self.module, self.count = module, 0

    def _add(self, *_):
        self.count += 1

    def __enter__(self):
        self.handle = self.module.register_forward_hook(self._add)
        return self

    def __exit__(self, *_):
        self.handle.remove()
