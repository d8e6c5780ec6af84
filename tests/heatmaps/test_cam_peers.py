"""The CAM family beside pytorch-grad-cam on VGG-, ResNet- and EfficientNet-like networks with random weights."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.heatmaps.fixture_nets import Vgg
from tests.heatmaps.nets import ask, normalised
from xseg.classifier import Classifier, ClassifierConfig
from xseg.device import torchvision_ready
from xseg.heatmaps import methods

torchvision_ready()
pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
timm = pytest.importorskip("timm")

from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: E402 - after torchvision_ready

PEERS = {
    "grad-cam": "GradCAM",
    "grad-cam++": "GradCAMPlusPlus",
    "layer-cam": "LayerCAM",
    "hires-cam": "HiResCAM",
    "score-cam": "ScoreCAM",
}
SETTINGS = {"score-cam": ["variant=pytorch-grad-cam"]}
LAYERS = {"vgg": ("features.7", "features.5"), "resnet": ("layer4", "layer2"), "efficientnet": ("bn2", "blocks.2")}
TARGETS = (4, 0, 2)


def network(name):
    """A classifier in float64 whose batch norms have statistics, scales and shifts far from one and zero."""
    torch.manual_seed(len(name))
    if name == "vgg":
        net, head = Vgg(norm=False, side=3), "classifier.6"
    else:
        net = timm.create_model(f"test_{name}", num_classes=5)
        head = net.default_cfg["classifier"]
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    classes = tuple(f"class{k}" for k in range(5))
    config = ClassifierConfig(f"tests:{name}", classes, layer=LAYERS[name][0], head=head, input_size=(32, 48))
    return Classifier(config, net).double().eval()


def peer_maps(peer, classifier, layer, images):
    """The peer's maps (N,h,w) after its ReLU, before it resizes them and scales them to [0,1]."""
    module = classifier.net.get_submodule(layer)
    targets = [ClassifierOutputTarget(k) for k in TARGETS]
    with getattr(pytorch_grad_cam, peer)(classifier, [module]) as cam:
        outputs = cam.activations_and_grads(images)
        sum(target(output) for target, output in zip(targets, outputs, strict=True)).backward()
        seen = cam.activations_and_grads
        arrays = [seen.activations[0].numpy(), seen.gradients[0].numpy()]
        return np.maximum(cam.get_cam_image(images, module, targets, *arrays, False), 0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", sorted(LAYERS))
@pytest.mark.parametrize("method", sorted(PEERS))
def test_the_family_equals_the_peer_library(record_property, method, name, which):
    classifier, images, layer = network(name), normalised(3, 32, 48).double(), LAYERS[name][which]
    query = ask(images, list(enumerate(TARGETS)), layer=layer)
    found = methods.create(method, SETTINGS.get(method, ()))(classifier, query).numpy()
    expected = peer_maps(PEERS[method], classifier, layer, images)
    assert found.shape == expected.shape
    assert np.ptp(expected, (1, 2)).max() > 0
    error = np.abs(found - expected).max() / expected.max()
    record_property("error", float(error))
    print(f"\n{method} {name} {layer} {error:.1e}")
    assert error < 1e-4
