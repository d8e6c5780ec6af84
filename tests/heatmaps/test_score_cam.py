from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.heatmaps.nets import Forwards, ask, deep, normalised, pooled
from xseg.errors import UsageError
from xseg.heatmaps import methods

PAIRS = [(1, 1), (0, 3), (1, 0), (2, 2)]


def double(make=deep, activation="softmax", dead=()):
    classifier = make().double()
    classifier.config = replace(classifier.config, activation=activation)
    with torch.no_grad():
        for channel in dead:
            classifier.net.features[2].weight[channel] = 0
            classifier.net.features[2].bias[channel] = 0.75  # constant, yet not zero
    return classifier


def answer(classifier, images, settings=(), pairs=PAIRS):
    return methods.create("score-cam", settings)(classifier, ask(images, pairs))


def one_by_one(classifier, image, official, skip=()):
    """Feature maps (F,h,w) of one image, and logits (F,C) of the picture under each one's mask; None where skipped."""
    features = classifier.net.features(image[None])[0].detach()
    rows = []
    for channel, values in enumerate(features):
        if channel in skip:
            rows.append(None)
            continue
        mask = functional.interpolate(values[None, None], image.shape[1:], mode="bilinear", align_corners=not official)
        mask = (mask - mask.min()) / (mask.max() - mask.min() + (0 if official else 1e-8))
        with torch.no_grad():
            rows.append(classifier(image[None] * mask)[0])
    return features, rows


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("dead", [(), (1, 4)])
def test_official_sums_upsampled_features_by_probability(activation, dead):
    classifier, images = double(activation=activation, dead=dead), normalised(3, 32, 44).double()
    for (image, target), found in zip(PAIRS, answer(classifier, images), strict=True):
        features, rows = one_by_one(classifier, images[image], official=True, skip=dead)
        expected = torch.zeros(32, 44, dtype=torch.float64)
        for values, logits in zip(features, rows, strict=True):
            if logits is not None:
                score = logits.softmax(0)[target] if activation == "softmax" else logits.sigmoid()[target]
                large = functional.interpolate(values[None, None], (32, 44), mode="bilinear", align_corners=False)
                expected += score * large[0, 0]
        torch.testing.assert_close(found, expected.relu(), atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("dead", [(), (1, 4)])
def test_pytorch_grad_cam_weighs_by_a_softmax_over_the_channels(dead):
    classifier, images = double(dead=dead), normalised(3, 32, 44).double()
    for (image, target), found in zip(PAIRS, answer(classifier, images, ["variant=pytorch-grad-cam"]), strict=True):
        features, rows = one_by_one(classifier, images[image], official=False)
        weights = np.exp([row[target].item() for row in rows])
        expected = np.tensordot(weights / weights.sum(), features, 1)
        # Of a constant channel the published mask is the rounding of the resizing, 1e-16, over 1e-8; ours is zero.
        np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-7 if dead else 1e-12, rtol=0)


@pytest.mark.parametrize("variant", ["official", "pytorch-grad-cam"])
def test_sub_batches_do_not_change_the_result(variant):
    classifier, images = double(dead=(2,)), normalised(3).double()
    whole = answer(classifier, images, [f"variant={variant}", "chunk=1000"])
    for chunk in (1, 4, 5):
        found = answer(classifier, images, [f"variant={variant}", f"chunk={chunk}"])
        torch.testing.assert_close(found, whole, atol=1e-12, rtol=1e-10)


def test_all_classes_share_the_masked_passes_and_constant_channels_cost_none():
    classifier, images = pooled([f"class{k}" for k in range(20)]), normalised(2)
    classifier.net.features[2].weight.data[3] = 0
    pairs = [(i, k) for k in range(20) for i in range(2)]
    for variant, blank in (("official", 0), ("pytorch-grad-cam", 1)):
        with Forwards(classifier) as passes:
            answer(classifier, images, [f"variant={variant}", "chunk=1"], pairs)
        assert passes.count == 1 + 2 * 5 + blank


def test_some_channels_are_those_of_the_largest_mean_activation():
    classifier, images = double(), normalised(3).double()
    found = answer(classifier, images, ["channels=2"])
    for (image, target), row in zip(PAIRS, found, strict=True):
        features, rows = one_by_one(classifier, images[image], official=True)
        strong = features.abs().mean((1, 2)).numpy().argsort()[-2:]
        large = functional.interpolate(features[None], images.shape[2:], mode="bilinear", align_corners=False)[0]
        expected = sum(rows[channel].softmax(0)[target] * large[channel] for channel in strong)
        torch.testing.assert_close(row, expected.relu(), atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(answer(classifier, images, ["channels=99"]), answer(classifier, images))
    with Forwards(classifier) as passes:
        answer(classifier, images, ["channels=2", "chunk=1"], [(0, 0)])
    assert passes.count == 1 + 3 * 2


@pytest.mark.parametrize("values", [[0.0, 0.0], [1e-45, 0.0], [1e36, -1e36]])
@pytest.mark.parametrize("variant", ["official", "pytorch-grad-cam"])
def test_extreme_features_give_finite_maps(variant, values):
    classifier = pooled()
    hook = classifier.net.features.register_forward_hook(
        lambda _, __, out: torch.tensor(values).repeat(out.shape[-1] // 2).expand_as(out).clone()
    )
    found = answer(classifier, normalised(3), [f"variant={variant}", "channels=1"])
    hook.remove()
    assert torch.isfinite(found).all()


def test_a_picture_of_one_class_of_a_softmax_is_the_sum_of_its_features():
    classifier = pooled(("cat",), activation="softmax").double()
    images = normalised(1).double()
    (found,) = answer(classifier, images, pairs=[(0, 0)])
    features = classifier.net.features(images).detach()
    expected = functional.interpolate(features, images.shape[2:], mode="bilinear")[0].sum(0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("setting", ["chunk=0", "channels=0", "variant=paper"])
def test_impossible_parameters_are_refused(setting):
    with pytest.raises(UsageError, match=setting):
        methods.create("score-cam", [setting])


def test_a_layer_without_places_is_refused():
    classifier = deep()
    assert "fc1 (Linear)" in methods.create("score-cam").serves(classifier, "fc1")
    assert methods.create("score-cam").serves(classifier) is None
    with pytest.raises(UsageError, match="fc1"):
        methods.create("score-cam")(classifier, ask(normalised(1), [(0, 0)], layer="fc1"))
