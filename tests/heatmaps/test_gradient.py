from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from tests.heatmaps import oracle_maps as oracle
from tests.heatmaps.nets import ask, body, normalised, pooled, state_of, wrap
from xseg.heatmaps import methods


def test_input_x_gradient_equals_finite_differences():
    classifier, images = pooled(), normalised(2, 32, 36)
    pairs = [(0, 1), (1, 3), (1, 0)]
    found = methods.create("input-x-gradient")(classifier, ask(images, pairs)).numpy()
    absolute = methods.create("input-x-gradient", ["absolute=true"])(classifier, ask(images, pairs)).numpy()
    state, step = state_of(classifier), 1e-6
    for row, (image, target) in enumerate(pairs):
        pixels = images[image].double().numpy()
        for y, x in [(0, 0), (31, 35), (13, 20)]:
            product = []
            for colour in range(3):
                logits = []
                for sign in (1, -1):
                    moved = pixels.copy()
                    moved[colour, y, x] += sign * step
                    logits.append(oracle.pooled_logit(state, moved, target))
                product.append(pixels[colour, y, x] * (logits[0] - logits[1]) / (2 * step))
            np.testing.assert_allclose(found[row, y, x], np.sum(product), atol=1e-6, rtol=1e-4)
            np.testing.assert_allclose(absolute[row, y, x], np.abs(product).sum(), atol=1e-6, rtol=1e-4)


def test_maps_of_a_network_without_bias_sum_to_the_logit():
    parts = OrderedDict(
        features=body(bias=False),
        pool=nn.AdaptiveAvgPool2d(2),
        flat=nn.Flatten(),
        fc1=nn.Linear(24, 9, bias=False),
        act=nn.ReLU(inplace=True),
        fc=nn.Linear(9, 4, bias=False),
    )
    classifier, images = wrap(nn.Sequential(parts)), normalised(2, 37, 33)
    maps = methods.create("input-x-gradient")(classifier, ask(images, [(0, 0), (1, 0), (0, 3), (1, 2)]))
    logits = classifier(images).detach()
    expected = torch.stack([logits[0, 0], logits[1, 0], logits[0, 3], logits[1, 2]])
    torch.testing.assert_close(maps.sum((1, 2)), expected, atol=1e-5, rtol=1e-4)


def test_signed_unless_absolute():
    assert methods.create("input-x-gradient").is_signed
    assert not methods.create("input-x-gradient", ["absolute=true"]).is_signed


def test_a_network_that_writes_into_its_input_leaves_the_query_alone():
    class Shift(nn.Module):
        def forward(self, x):
            return x.sub_(0.5)

    classifier = pooled()
    classifier.net = nn.Sequential(OrderedDict(shift=Shift(), **dict(classifier.net.named_children())))
    images = normalised(1)
    before = images.clone()
    methods.create("input-x-gradient")(classifier, ask(images, [(0, 0)]))
    assert torch.equal(images, before)
