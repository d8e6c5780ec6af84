"""Meaningful perturbation against a slow re-derivation: SciPy's median, NumPy's Adam, one question at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional

from tests.heatmaps.nets import CLASSES, ask, normalised, pooled, wrap
from xseg.errors import UsageError
from xseg.heatmaps.baselines import median_blur
from xseg.heatmaps.perturbation import MeaningfulPerturbation, mask_penalty
from xseg.seeding import generator

PAIRS = [(0, 1), (1, 2), (0, 3)]


@pytest.mark.parametrize("size", [1, 3, 11])
@pytest.mark.parametrize("shape", [(32, 45), (7, 5), (1, 1)])
def test_median_blur_equals_scipys(size, shape):
    images = normalised(2, *shape).double()
    expected = ndimage.median_filter(images.numpy(), (1, 1, size, size), mode="nearest")
    np.testing.assert_array_equal(median_blur(images, size), expected)
    assert median_blur(images.half(), size).dtype == torch.float16


def penalty(mask, l1, tv, beta):
    rows, columns = np.abs(mask[1:] - mask[:-1]) ** beta, np.abs(mask[:, 1:] - mask[:, :-1]) ** beta
    return l1 * np.abs(1 - mask).mean() + tv * (rows.mean() + columns.mean())


def test_penalty_of_each_mask_alone():
    masks = torch.rand(3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = [penalty(mask, 0.3, 0.7, 3) for mask in masks.numpy()]
    np.testing.assert_allclose(mask_penalty(masks, 0.3, 0.7, 3.0), expected)


def rederived(classifier, image, target, name, method, seed):
    """One map in float64, with Adam written out."""
    shape = image.shape[1:]
    size = (1, method.blur, method.blur)
    blurred = torch.from_numpy(ndimage.median_filter(image.numpy(), size, mode="nearest"))
    mask = torch.ones(1, 1, method.grid, method.grid, dtype=torch.float64)
    mean, square = torch.zeros_like(mask), torch.zeros_like(mask)
    for iteration in range(method.iterations):
        mask = mask.detach().requires_grad_()
        large = functional.interpolate(mask, shape, mode="bilinear", align_corners=True)[0]
        random = generator(seed, "meaningful-perturbation", name, target + 1, iteration)
        noise = torch.from_numpy(random.standard_normal((3, *shape), "float32")).double() * method.noise
        logits = classifier((large * image + (1 - large) * blurred + noise)[None])
        if classifier.config.activation == "softmax":
            probability = logits.exp()[0, target] / logits.exp().sum()
        else:
            probability = 1 / (1 + (-logits[0, target]).exp())
        plane = mask[0, 0]
        rows, columns = (plane[1:] - plane[:-1]).abs(), (plane[:, 1:] - plane[:, :-1]).abs()
        variation = (rows**method.beta).mean() + (columns**method.beta).mean()
        loss = method.l1 * (1 - plane).abs().mean() + method.tv * variation + probability
        (gradient,) = torch.autograd.grad(loss, mask)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        scaled = (square / (1 - 0.999 ** (iteration + 1))).sqrt()
        step = mean / (1 - 0.9 ** (iteration + 1)) / (scaled + 1e-8)
        mask = (mask.detach() - method.rate * step).clamp(0, 1)
    return 1 - functional.interpolate(mask, shape, mode="bilinear", align_corners=True)[0, 0]


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize(
    ("settings", "shape"),
    [({"iterations": 12}, (32, 41)), ({"iterations": 8, "grid": 5, "blur": 3, "noise": 0.0, "tv": 1.0}, (20, 12))],
)
def test_maps_equal_the_slow_ones(activation, settings, shape, record_property):
    classifier = pooled(activation=activation).double()
    query = ask(normalised(2, *shape).double(), PAIRS, seed=4)
    method = MeaningfulPerturbation(**settings)
    maps = method(classifier, query)
    for row, (image, target) in zip(maps, PAIRS, strict=True):
        expected = rederived(classifier, query.images[image], target, f"image{image}", method, 4)
        error = (row - expected).abs().max().item()
        record_property("error", float(error))
        assert error < 1e-6
        assert 0 < expected.max() <= 1


def test_the_map_shows_the_half_the_network_looks_at():
    class LeftHalf(nn.Module):
        def forward(self, images):
            return images[..., : images.shape[-1] // 2].square().mean((1, 2, 3))[:, None].expand(-1, len(CLASSES))

    classifier = wrap(LeftHalf()).double()
    query = ask(normalised(1, 32, 48).double(), [(0, 1)])
    row = MeaningfulPerturbation(iterations=25, blur=5)(classifier, query)[0]
    assert row[:, :20].mean() > 0.9
    assert row[:, 28:].mean() < 0.1


def test_maps_depend_on_neither_batch_nor_chunk():
    classifier, images = pooled().double(), normalised(3, 17, 22).double()
    pairs = [(2, 0), (0, 1), (2, 3), (0, 1)]
    method = MeaningfulPerturbation(iterations=6)
    together = method(classifier, ask(images, pairs, seed=3))
    torch.testing.assert_close(replace(method, chunk=3)(classifier, ask(images, pairs, seed=3)), together)
    for row, (image, target) in zip(together, pairs, strict=True):
        query = ask(images[image : image + 1], [(0, target)], ids=(f"image{image}",), seed=3)
        torch.testing.assert_close(method(classifier, query)[0], row)


def test_noise_follows_seed_image_and_class():
    classifier, images = pooled(), normalised(1).expand(2, -1, -1, -1).contiguous()
    method = MeaningfulPerturbation(iterations=3)
    with torch.no_grad():
        first = method(classifier, ask(images, [(0, 1), (1, 1)], seed=3))
    assert torch.equal(first, method(classifier, ask(images, [(0, 1), (1, 1)], seed=3)))
    assert not torch.allclose(first, method(classifier, ask(images, [(0, 1), (1, 1)], seed=4)))
    assert not torch.allclose(first[0], first[1])
    with torch.no_grad():
        classifier.net.fc.weight[2], classifier.net.fc.bias[2] = classifier.net.fc.weight[1], classifier.net.fc.bias[1]
    twins = method(classifier, ask(images, [(0, 1), (0, 2)], seed=3))
    assert not torch.allclose(twins[0], twins[1])
    assert not method.is_signed


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": 0},
        {"grid": 1},
        {"blur": 4},
        {"blur": -1},
        {"l1": -0.1},
        {"tv": float("nan")},
        {"beta": 0.5},
        {"noise": -0.2},
        {"rate": 0.0},
        {"chunk": 0},
    ],
)
def test_parameters_without_sense_are_refused(wrong):
    with pytest.raises(UsageError, match=f"--set {next(iter(wrong))}"):
        MeaningfulPerturbation(**wrong)
