"""A U-Net guided by its class activation maps is a U-Net that segments."""

import pytest
import torch
from torch.nn import functional

from tests.guided.nets import CLASSES, some_batch
from xseg.classifier.model import create
from xseg.guided.losses import cross_entropy
from xseg.guided.settings import GuidedSettings
from xseg.guided.task import GuidedTask
from xseg.guided.terms import terms_of
from xseg.heatmaps import explain_images, methods


@pytest.fixture
def unet():
    options = {"encoder": "plain", "width": 4, "depth": 2, "fine": 1}
    return create("unet", CLASSES, weights="none", background=True, options=options).double().eval()


def segment(classifier, images):
    """The decoder's features through the head as a 1x1 convolution: what a U-Net for segmentation does."""
    net = classifier.net
    features = net.decoder(net.encoder(images), images.shape[2:])
    return functional.conv2d(features, net.head.weight[:, :, None, None])


def test_masks_alone_train_it_as_a_network_for_segmentation(unet):
    batch = some_batch(masked=(0, 1, 2, 3))
    batch["images"] = batch["images"].double() / 255
    terms = terms_of(GuidedSettings(heatmap=("cam", "relu=false")), len(CLASSES), False, ())
    method = methods.create("cam", ["relu=false"])
    task = GuidedTask(unet, method, lambda steps: iter(()), terms, classification_weight=0.0)
    loss, _ = task.loss(batch, 0)
    expected = cross_entropy(segment(unet, unet.normalise(batch["images"])), batch["mask"])
    torch.testing.assert_close(loss, expected)
    parameters = list(unet.parameters())
    found = torch.autograd.grad(loss, parameters)
    wanted = torch.autograd.grad(expected, parameters, allow_unused=True)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other)
    assert any(gradient.abs().max() > 0 for gradient in found)


def test_its_explanation_is_its_segmentation(unet):
    unet = unet.float()
    image = torch.randint(0, 256, (40, 36, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (found,) = explain_images(unet, methods.create("cam", ["relu=false"]), [image.numpy()], [(0, 1, 2, 3)], ["a"])
    with torch.no_grad():
        expected = segment(unet, unet.normalise(image.movedim(2, 0)[None]))[0]
    torch.testing.assert_close(torch.from_numpy(found.maps), expected, atol=1e-5, rtol=1e-4)
