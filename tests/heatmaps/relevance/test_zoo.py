"""The networks of timm and torchvision, and a U-Net, as they are: every method serves them and leaves them alone."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.heatmaps.nets import CLASSES, ask
from xseg.classifier import Classifier, ClassifierConfig
from xseg.device import torchvision_ready
from xseg.heatmaps import methods
from xseg.heatmaps.relevance.tape import record

torchvision_ready()

import timm  # noqa: E402
from torchvision import models  # noqa: E402

VGG11 = [16, "M", 32, "M", 64, 64, "M", 128, 128, "M", 128, 128, "M"]  # a quarter of the channels
SETTINGS = [
    ("lrp", []),
    ("lrp", ["composite=published"]),
    ("clrp", []),
    ("sglrp", []),
    ("rap", []),
    ("agf", []),
]


class UNet(nn.Module):
    """Two levels down, two up, with skips by concatenation, and a linear head on the mean: a classifier."""

    def __init__(self, up):
        super().__init__()
        self.first, self.second, self.third = (self._two(*widths) for widths in ((3, 6), (6, 8), (8, 12)))
        self.up = up
        if up == "transposed":
            self.rise1, self.rise2 = nn.ConvTranspose2d(12, 12, 2, 2), nn.ConvTranspose2d(8, 8, 2, 2)
        self.fourth, self.features = self._two(20, 8), self._two(14, 6)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(6, 4)

    def _two(self, inputs, outputs):
        def conv(channels):
            return [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

        return nn.Sequential(*conv(inputs), *conv(outputs))

    def _rise(self, x, module):
        if self.up == "transposed":
            return getattr(self, module)(x)
        return functional.interpolate(x, scale_factor=2, mode=self.up)

    def forward(self, x):
        first = self.first(x)
        second = self.second(self.pool(first))
        x = self.fourth(torch.cat([self._rise(self.third(self.pool(second)), "rise1"), second], 1))
        return self.fc(self.features(torch.cat([self._rise(x, "rise2"), first], 1)).mean((2, 3)))


def timms(name, **options):
    return timm.create_model(name, num_classes=4, **options)


def torchvisions(cls, *args, **options):
    return cls(*args, num_classes=4, **options)


def alexnet():
    net = models.AlexNet(num_classes=4)
    net.classifier = nn.Sequential(nn.Dropout(), nn.Linear(256 * 36, 32), nn.ReLU(inplace=True), nn.Linear(32, 4))
    return net


def vgg(norm):
    net = models.VGG(models.vgg.make_layers(VGG11, norm), 4, init_weights=False)
    net.classifier = nn.Sequential(nn.Linear(128 * 49, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 4))
    return net


def efficientnet():
    config = partial(models.efficientnet.MBConvConfig, width_mult=0.5, depth_mult=0.5)
    rows = [
        (1, 3, 1, 32, 16, 1),
        (6, 3, 2, 16, 24, 2),
        (6, 5, 2, 24, 40, 2),
        (6, 3, 2, 40, 80, 3),
        (6, 5, 1, 80, 112, 3),
    ]
    return models.EfficientNet([config(*row) for row in rows], 0.2, num_classes=4)


def regnet(se_ratio):
    params = models.regnet.BlockParams.from_init_params(8, 24, 24.0, 2.5, 8, se_ratio=se_ratio)
    return models.RegNet(params, num_classes=4)


# Depth and width are reduced where that leaves all kinds of layers in place.
NETS = {
    "torchvision alexnet": alexnet,
    "torchvision vgg11": partial(vgg, False),
    "torchvision vgg11_bn": partial(vgg, True),
    "torchvision resnet18": partial(torchvisions, models.ResNet, models.resnet.BasicBlock, [1, 1, 1, 1]),
    "torchvision resnet50": partial(torchvisions, models.ResNet, models.resnet.Bottleneck, [1, 1, 1, 1]),
    "torchvision densenet121": partial(torchvisions, models.DenseNet, 16, (2, 3, 2, 2), 32),
    "torchvision efficientnet_b0": efficientnet,
    "torchvision mobilenetv3_small": partial(torchvisions, models.mobilenet_v3_small),
    "torchvision convnext_tiny": partial(
        torchvisions,
        models.ConvNeXt,
        [models.convnext.CNBlockConfig(16, 32, 2), models.convnext.CNBlockConfig(32, None, 2)],
    ),
    "torchvision regnet_y_400mf": partial(regnet, 0.25),
    "torchvision regnet_x_400mf": partial(regnet, None),
    "timm vgg11": partial(timm.models.VGG, VGG11, 4, mlp_ratio=0.01),
    "timm vgg11_bn": partial(timm.models.VGG, VGG11, 4, mlp_ratio=0.01, norm_layer=nn.BatchNorm2d),
    "timm resnet18": partial(timms, "resnet18", layers=(1, 1, 1, 1)),
    "timm resnet50": partial(timms, "resnet50", layers=(1, 1, 1, 1)),
    "timm resnetv2_50": partial(timms, "resnetv2_50", layers=(1, 1, 1, 1)),
    "timm densenet121": partial(timms, "densenet121", block_config=(2, 3, 2, 2)),
    "timm efficientnet_b0": partial(timms, "efficientnet_b0"),
    "timm mobilenetv3_small": partial(timms, "mobilenetv3_small_050"),
    "timm convnext_atto": partial(timms, "convnext_atto", depths=(1, 1, 2, 1)),
    "timm regnetx_002": partial(timms, "regnetx_002"),
    "timm regnety_002": partial(timms, "regnety_002"),
    **{f"u-net {up}": partial(UNet, up) for up in ("nearest", "bilinear", "transposed")},
}


def make(name):
    """The network with random weights and running statistics."""
    with torch.device("cpu" if "regnet_" in name else "meta"):  # most need not wait for their own initialisation
        net = NETS[name]()
    net = net.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path, values in (*net.named_parameters(), *net.named_buffers()):
            if values.ndim > 1:
                values.normal_(0, (2 / values[0].numel()) ** 0.5, generator=generator)
            elif path.endswith(("running_var", "weight")):
                values.uniform_(0.5, 1.5, generator=generator)
            elif values.is_floating_point():
                values.normal_(0, 0.1, generator=generator)
            else:
                values.zero_()
    size = 64 if "alexnet" in name else 48
    modules = [path for path, module in net.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    config = ClassifierConfig("tests:zoo", CLASSES, layer=modules[0], head=modules[-1], input_size=(size, size))
    classifier = Classifier(config, net).eval()
    with torch.no_grad():  # logits of about 1, or AGF's contrast is saturated and has no gradient
        classifier.head.weight.div_(classifier(picture(size)).std())
    return classifier.train()


def picture(size):
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))


def state_of(classifier):
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in classifier.modules()]
    training = [module.training for module in classifier.modules()]
    return hooks, training, [parameter.requires_grad for parameter in classifier.parameters()]


@pytest.mark.parametrize("name", NETS)
def test_every_method_serves_the_network_and_leaves_it_alone(name):
    classifier = make(name)
    weights, state = copy.deepcopy(classifier.state_dict()), state_of(classifier)
    images = picture(classifier.config.input_size[0])
    query = ask(images, [(0, 2), (0, 1)])

    classifier.eval()
    with torch.no_grad():
        plain = classifier(images.clone())
    classifier.train()
    recorded = record(classifier, images)
    torch.testing.assert_close(recorded.logits, plain, atol=1e-5 * plain.abs().max().item(), rtol=1e-5)
    assert plain.std() > 1e-3

    for method, settings in SETTINGS:
        made = methods.create(method, settings)
        if made.needs_gradients or (method, settings) == ("lrp", []):  # the others ask the same
            assert made.serves(classifier) is None
        maps = made(classifier, query)
        assert maps.shape == (2, *images.shape[2:])
        assert torch.isfinite(maps).all()
        assert maps.abs().amax((1, 2)).min() > 0, (method, settings)
        assert (maps[0] != maps[1]).any()
    assert state_of(classifier) == state
    assert all(torch.equal(value, weights[key]) for key, value in classifier.state_dict().items())
