"""Thresholds by area prior, against a search in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.labels.oracle_area import lowest_threshold, mean_share
from xseg.labels.area import STEPS, ForegroundShares, exponent, foreground_scores, weight
from xseg.labels.confident import with_background
from xseg.labels.masks import Preparation, class_scores


def drawn(seed, images=4):
    """Scores of images of several sizes, with zeros and many ties, as float16 maps have them."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(images):
        values = rng.random((rng.integers(5, 40), rng.integers(5, 40))) ** rng.uniform(0.5, 4)
        values[rng.random(values.shape) < 0.1] = 0
        found.append(values.astype(np.float16 if rng.random() < 0.5 else np.float32).astype(np.float32))
    return found


def counted(images):
    shares = ForegroundShares()
    for image in images:
        shares.add(torch.from_numpy(image))
    return shares


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.01, 0.7))
def test_the_threshold_is_the_one_that_a_search_finds(seed, share):
    images = drawn(seed)
    shares = counted(images)
    found = shares.threshold(share)
    assert found == lowest_threshold(images, share)
    assert shares.at(found) == pytest.approx(mean_share(images, found), abs=1e-9)
    assert shares.at(found) <= share + 1e-9
    assert found == 0.5 / STEPS or mean_share(images, found - 1 / STEPS) > share


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), one=st.floats(0.01, 0.7), other=st.floats(0.01, 0.7))
def test_a_larger_share_has_a_lower_threshold_whatever_the_order_of_the_images(seed, one, other):
    images = drawn(seed, 7)
    shares, turned = counted(images), counted(images[::-1])
    assert shares.threshold(max(one, other)) <= shares.threshold(min(one, other))
    assert shares.threshold(one) == turned.threshold(one)
    assert shares.at(0.5 / STEPS) == turned.at(0.5 / STEPS)


def test_every_image_counts_alike_whatever_its_size():
    small, large = np.full((2, 2), 0.9, np.float32), np.full((60, 60), 0.1, np.float32)
    shares = counted([small, large])
    assert shares.at(0.5 + 0.5 / STEPS) == 0.5
    assert 0.1 <= shares.threshold(0.5) <= 0.1 + 1 / STEPS


def test_a_share_that_no_threshold_gives_is_refused_with_those_it_does():
    image = np.zeros((10, 10), np.float32)
    image[0, :5], image[1, :5] = 1, 0.5
    shares = counted([image])
    assert shares.threshold(0.1) == 0.5 / STEPS
    assert shares.threshold(0.09) == pytest.approx(0.5, abs=1 / STEPS)
    for share in (0.04, 0.11):
        with pytest.raises(ValueError, match=r"the maps allow 0\.0500 to 0\.1000"):
            shares.threshold(share)
    for wrong in (0.0, 1.0):
        with pytest.raises(ValueError, match="needed one in"):
            shares.threshold(wrong)
    with pytest.raises(ValueError, match="0 images"):
        ForegroundShares().threshold(0.3)
    with pytest.raises(ValueError, match="needed \\[0, 1\\]"):
        shares.add(torch.full((2, 2), 1.5))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_exponent_and_weight_mean_the_threshold_they_are_made_of(share):
    maps, ids = torch.from_numpy(drawn(3, 1)[0])[None], torch.tensor([2])
    scores = foreground_scores(maps, ids)
    threshold = counted([scores.numpy()]).threshold(share)
    expected = scores > threshold
    assert torch.equal(with_background(maps, exponent(threshold)).argmax(0) > 0, expected)

    background = torch.from_numpy(np.random.default_rng(1).random(maps.shape)).float()
    joined, own = torch.cat([background, maps]), torch.tensor([0, 2])
    scores = foreground_scores(joined, own)
    threshold = counted([scores.numpy()]).threshold(share)
    weighted, rows = class_scores(joined, own, Preparation(), weight=weight(threshold))
    assert torch.equal(rows[weighted.argmax(0)] > 0, scores > threshold)
    as_it_is, _ = class_scores(joined, own, Preparation())
    assert torch.equal(class_scores(joined, own, Preparation(), weight=1.0)[0], as_it_is)


def test_an_image_without_maps_is_background():
    assert foreground_scores(torch.zeros(0, 3, 4), torch.zeros(0, dtype=torch.long)).tolist() == [[0.0] * 4] * 3
    alone = foreground_scores(torch.ones(1, 3, 4), torch.tensor([0]))
    assert alone.tolist() == [[0.0] * 4] * 3
