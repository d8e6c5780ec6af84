"""Occlusion and RISE against Captum, SciPy and slow loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import Occlusion as CaptumOcclusion
from scipy import ndimage

from tests.heatmaps.nets import Forwards, ask, normalised, pooled, smooth
from xseg.errors import UsageError
from xseg.heatmaps.baselines import baseline_images
from xseg.heatmaps.cells import linear_weights, windows
from xseg.heatmaps.masking import Occlusion, Rise
from xseg.seeding import generator

PAIRS = [(0, 1), (1, 2), (0, 3)]
ALL = [
    Occlusion(window=9, stride=5),
    Occlusion(fill="blur", score="probability"),
    Rise(masks=11),
    Rise(masks=9, fill="black", cells=3, keep=0.3, score="logit"),
]


def scores(classifier, images, probability):
    with torch.no_grad():
        logits = classifier(images)
    return classifier.probabilities(logits) if probability else logits


@pytest.mark.parametrize(
    ("window", "stride", "shape"),
    [(8, 8, (32, 40)), (7, 3, (31, 26)), (10, 6, (32, 37)), (5, 1, (9, 12)), (9, 4, (9, 30))],
)
@pytest.mark.parametrize("fill", ["zero", "black", "blur"])
def test_occlusion_equals_captums(window, stride, shape, fill, record_property):
    classifier = pooled().double()
    query = ask(normalised(2, *shape).double(), PAIRS)
    found = Occlusion(window=window, stride=stride, fill=fill, chunk=5)(classifier, query)
    filled = baseline_images(classifier, query.images, fill)
    for row, (image, target) in zip(found, PAIRS, strict=True):
        expected = CaptumOcclusion(classifier).attribute(
            query.images[image : image + 1],
            sliding_window_shapes=(3, window, window),
            strides=(3, stride, stride),
            baselines=filled[image : image + 1],
            target=target,
        )
        error = (row - expected[0, 0]).abs().max() / expected.abs().max()
        record_property("error", float(error.item()))
        assert error < 1e-6


@pytest.mark.parametrize("probability", [False, True])
def test_occlusion_equals_a_loop_over_windows(probability):
    classifier, images = pooled().double(), normalised(2, 23, 32).double()
    method = Occlusion(window=6, stride=4, fill="white", score="probability" if probability else "logit")
    found = method(classifier, ask(images, PAIRS))
    white = classifier.normalise(torch.ones(3, 1, 1, dtype=torch.float64).expand(1, 3, 1, 1))
    intact = scores(classifier, images, probability)
    for row, (image, target) in zip(found.numpy(), PAIRS, strict=True):
        total, count = np.zeros((23, 32)), np.zeros((23, 32))
        for top in (0, 4, 8, 12, 16, 20):  # the last one reaches from 20 to 23
            for left in (0, 4, 8, 12, 16, 20, 24, 28):
                hidden = images[image : image + 1].clone()
                hidden[:, :, top : top + 6, left : left + 6] = white
                drop = intact[image, target] - scores(classifier, hidden, probability)[0, target]
                total[top : top + 6, left : left + 6] += drop.item()
                count[top : top + 6, left : left + 6] += 1
        np.testing.assert_allclose(row, total / count, atol=1e-12)


def test_windows_cover_the_side_and_no_more():
    assert windows(10, 4, 3) == [(0, 4), (3, 7), (6, 10)]
    assert windows(10, 4, 4) == [(0, 4), (4, 8), (8, 10)]
    assert windows(3, 4, 2) == [(0, 3)]
    for length in range(1, 30):
        for window in range(1, 12):
            for stride in range(1, window + 1):
                spans = windows(length, window, stride)
                assert {place for span in spans for place in range(*span)} == set(range(length))
                assert len(spans) == 1 or spans[-2][1] < length
                assert all(start < stop for start, stop in spans)


def test_the_default_windows_grow_with_the_image():
    classifier = pooled()
    for side, window, stride in ((32, 5, 2), (70, 10, 5), (3, 1, 1)):
        query = ask(normalised(1, side, side + 9), [(0, 1)])
        assert torch.equal(Occlusion()(classifier, query), Occlusion(window=window, stride=stride)(classifier, query))


def published_masks(count, cells, keep, shape, seed):
    """The published way: scipy's zoom by whole cells (as skimage's resize calls it), then a shifted crop."""
    masks = []
    for number in range(count):
        random = generator(seed, "rise", number)
        grid = (random.random((cells, cells)) < keep).astype(float)
        size = [math.ceil(side / cells) for side in shape]
        shift = [int(u * cell) for u, cell in zip(random.random(2), size, strict=True)]
        zoom = [(cells + 1) * cell / cells for cell in size]
        large = ndimage.zoom(grid, zoom, order=1, mode="mirror", grid_mode=True)
        masks.append(large[shift[0] : shift[0] + shape[0], shift[1] : shift[1] + shape[1]])
    return np.stack(masks)


@pytest.mark.parametrize(("cells", "keep", "shape"), [(7, 0.5, (32, 45)), (3, 0.2, (33, 32)), (1, 0.5, (8, 9))])
@pytest.mark.parametrize("probability", [True, False])
def test_rise_equals_the_published_formula(cells, keep, shape, probability, record_property):
    classifier, images = pooled().double(), normalised(2, *shape).double()
    method = Rise(masks=20, cells=cells, keep=keep, score="probability" if probability else "logit", chunk=6)
    found = method(classifier, ask(images, PAIRS, seed=7))
    masks = published_masks(20, cells, keep, shape, 7)
    for row, (image, target) in zip(found.numpy(), PAIRS, strict=True):
        expected = np.zeros(shape)
        for mask in masks:
            shown = images[image : image + 1] * torch.from_numpy(mask)
            expected += scores(classifier, shown, probability)[0, target].item() * mask
        expected /= 20 * keep
        error = np.abs(row - expected).max() / np.abs(expected).max()
        record_property("error", float(error))
        assert error < 1e-9


def test_rise_of_a_constant_is_that_constant_in_expectation():
    classifier = pooled().double()
    with torch.no_grad():
        classifier.net.fc.weight.zero_()
        classifier.net.fc.bias.fill_(math.log(3))  # probability 3/4
    query = ask(normalised(1, 32, 44).double(), [(0, 1)])
    maps = Rise(masks=1000, keep=0.3, chunk=50)(classifier, query)
    assert abs(maps.mean().item() - 0.75) < 0.02
    assert maps.min() > 0.75 * 0.8
    assert maps.max() < 0.75 * 1.2
    everything = Rise(masks=3, keep=1.0)(classifier, query)
    torch.testing.assert_close(everything, torch.full_like(everything, 0.75))


def test_rise_can_show_a_baseline_where_the_mask_hides():
    classifier, images = pooled().double(), normalised(1, 20, 20).double()
    black = baseline_images(classifier, images, "black")
    found = Rise(masks=4, fill="black")(classifier, ask(images, [(0, 1)]))
    expected = np.zeros((20, 20))
    for mask in published_masks(4, 7, 0.5, (20, 20), 0):
        shown = torch.from_numpy(mask) * images + torch.from_numpy(1 - mask) * black
        expected += scores(classifier, shown, True)[0, 1].item() * mask / 2
    np.testing.assert_allclose(found[0], expected, rtol=1e-9)


def test_linear_weights_mirror_beyond_the_outer_centres():
    places = torch.tensor([-0.25, 0.0, 1.5, 3.0, 3.25], dtype=torch.float64)
    values = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    torch.testing.assert_close(linear_weights(places, 4) @ values, torch.tensor([1.25, 1, 3, 8, 7]).double())


@pytest.mark.parametrize("method", ALL, ids=repr)
def test_maps_depend_on_neither_batch_nor_chunk(method):
    classifier, images = pooled().double(), normalised(3, 17, 22).double()
    pairs = [(2, 0), (0, 1), (2, 3), (0, 1)]
    together = method(classifier, ask(images, pairs, seed=3))
    torch.testing.assert_close(replace(method, chunk=4)(classifier, ask(images, pairs, seed=3)), together)
    for row, (image, target) in zip(together, pairs, strict=True):
        query = ask(images[image : image + 1], [(0, target)], ids=(f"image{image}",), seed=3)
        torch.testing.assert_close(method(classifier, query)[0], row)


def test_masks_follow_the_seed():
    first, again, other = (Rise(masks=3)(pooled(), ask(normalised(1), [(0, 1)], seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize("method", [Occlusion(window=16, stride=16, chunk=4), Rise(masks=10, chunk=2)], ids=repr)
def test_classes_share_the_forward_passes(method):
    classifier = pooled()
    with Forwards(classifier.net) as forwards:
        method(classifier, ask(normalised(2, 32, 48), [(0, 1), (1, 2), (0, 3), (0, 0)]))
    assert forwards.count == (3 if isinstance(method, Occlusion) else 5)  # 1 + 6/4 rounded up; 10/2


@pytest.mark.parametrize("method", ALL, ids=repr)
def test_maps_are_differentiable_in_images_and_parameters(method):
    classifier, images = smooth().double(), normalised(1, 9, 10, seed=2).double()
    images.requires_grad_()

    def maps(pixels, _):
        return method(classifier, ask(pixels, [(0, 1), (0, 2)], create_graph=True))

    assert torch.autograd.gradcheck(maps, (images, classifier.net.features[0].weight), fast_mode=True)
    plain = method(classifier, ask(images, [(0, 1), (0, 2)]))
    assert not plain.requires_grad
    torch.testing.assert_close(plain, maps(images, None).detach())


def test_signs():
    assert Occlusion().is_signed
    assert not Rise().is_signed
    assert Rise(score="logit").is_signed


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        (Occlusion, {"window": 0}),
        (Occlusion, {"stride": -1}),
        (Occlusion, {"chunk": 0}),
        (Occlusion, {"window": 4, "stride": 5}),
        (Rise, {"masks": 0}),
        (Rise, {"cells": 0}),
        (Rise, {"keep": 0.0}),
        (Rise, {"keep": 1.5}),
    ],
)
def test_parameters_without_sense_are_refused(method, wrong):
    with pytest.raises(UsageError, match=f"--set {list(wrong)[-1]}"):
        method(**wrong)


def test_a_stride_beyond_the_default_window_is_refused():
    with pytest.raises(UsageError, match="stride=20: leaves gaps between windows of 5 pixels"):
        Occlusion(stride=20)(pooled(), ask(normalised(1, 32, 32), [(0, 1)]))
