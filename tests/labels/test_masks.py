import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.labels.pictures import picture, soft_scores
from xseg.labels.confident import with_background
from xseg.labels.masks import (
    Preparation,
    class_scores,
    most_probable,
    refine,
    refine_mask,
    shares,
)
from xseg.labels.meanfield import Kernels, LatticeMeanField, mean_field
from xseg.labels.refinement import DenseCrf

BACKEND = LatticeMeanField()
CRF = DenseCrf(Kernels(), BACKEND)
SHARP = Kernels(iterations=0)


def mask_of(maps, class_id, image, kernels, *, classes=20, sharpen=None, **background):
    scores, ids = class_scores(maps, class_id, Preparation(sharpen=sharpen), **background)
    return most_probable(refine(scores, image, DenseCrf(kernels, BACKEND)), ids, classes)


def two_halves(height=24, width=30):
    """An image whose halves differ in colour, and maps (1,H,W) that leak over the edge."""
    image = torch.zeros(height, width, 3, dtype=torch.uint8)
    image[:, width // 2 :] = 200
    maps = torch.sigmoid((torch.arange(width) - width / 2 + 4).float() / 4).expand(1, height, width).clone()
    return image, maps


def test_refinement_moves_the_edge_of_the_mask_to_the_edge_in_the_image():
    image, maps = two_halves()
    truth = torch.zeros(24, 30, dtype=torch.uint8)
    truth[:, 15:] = 6
    rough = mask_of(maps, torch.tensor([6]), image, SHARP, background=0.5)
    found = mask_of(maps, torch.tensor([6]), image, Kernels(), background=0.5)
    assert (rough != truth).sum() > 50
    assert torch.equal(found, truth)


def test_a_background_channel_is_used_wherever_it_stands():
    scores, image = soft_scores(1, 3, 14, 15)[0], picture(14, 15)
    found = mask_of(scores, torch.tensor([4, 0, 9]), image, Kernels())
    expected = torch.tensor([4, 0, 9])[mean_field(scores[None], image, Kernels(), BACKEND)[0].argmax(0)]
    assert torch.equal(found.long(), expected)


def test_alpha_and_a_constant_are_two_ways_to_find_the_background():
    maps, image = soft_scores(1, 2, 10, 12)[0], picture(10, 12)
    maps = maps / maps.amax((1, 2), keepdim=True)
    class_id = torch.tensor([1, 2])
    found = mask_of(maps, class_id, image, SHARP, alpha=2.0)
    assert torch.equal(found.long(), with_background(maps, 2.0).argmax(0))
    assert mask_of(maps, class_id, image, SHARP, background=0.0).gt(0).all()
    for settings_ in ({}, {"alpha": 2.0, "background": 0.2}):
        with pytest.raises(ValueError, match="one of the two"):
            mask_of(maps, class_id, image, SHARP, **settings_)


def test_no_maps_give_background_and_many_classes_two_bytes():
    none = torch.zeros(0, dtype=torch.int32)
    assert mask_of(torch.zeros(0, 4, 5), none, picture(4, 5), Kernels(), background=0.2).eq(0).all()
    found = mask_of(torch.ones(1, 4, 5), torch.tensor([300]), picture(4, 5), SHARP, background=0.1, classes=300)
    assert (found.dtype, found.long().unique().tolist()) == (torch.uint16, [300])


def test_a_posterior_sums_to_one_and_one_class_alone_is_certain():
    image = picture(9, 11)
    assert torch.allclose(refine(soft_scores(1, 3, 9, 11)[0], image, CRF).sum(0), torch.ones(9, 11))
    assert refine(torch.full((1, 9, 11), 0.2), image, CRF).eq(1).all()


@given(power=st.sampled_from([0.5, 1.0, 3.0]), scale=st.floats(0.01, 100), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_shares_are_what_numpy_says_and_know_no_scale(power, scale, seed):
    scores = torch.from_numpy(np.random.default_rng(seed).random((3, 4, 5)).astype(np.float32))
    powers = (scores.double().numpy() * scale) ** power
    assert np.allclose(shares(scores * scale, power).numpy(), powers / powers.sum(0), atol=1e-5)


def test_a_pixel_without_any_evidence_has_no_shares():
    assert shares(torch.zeros(3, 2, 2), 4.0).eq(0).all()


def test_sharpening_keeps_the_winner_and_raises_it():
    maps = soft_scores(1, 3, 8, 9)[0]
    ids = torch.tensor([0, 2, 5])
    plain, _ = class_scores(maps, ids, Preparation())
    sharp, _ = class_scores(maps, ids, Preparation(sharpen=4.0))
    assert torch.equal(plain.argmax(0), sharp.argmax(0))
    assert (sharp.amax(0) >= plain.amax(0) - 1e-6).all()
    assert sharp.amax(0).mean() > plain.amax(0).mean() + 0.05


def test_maps_without_background_compete_only_when_asked():
    maps = soft_scores(1, 2, 8, 9)[0]
    alone, ids = class_scores(maps, torch.tensor([3, 4]), Preparation(), alpha=3.0)
    assert ids.tolist() == [0, 3, 4]
    prepared = maps / maps.amax((1, 2), keepdim=True)
    assert torch.allclose(alone, torch.cat([(1 - prepared.amax(0))[None] ** 3, prepared]), atol=1e-6)
    sharp, _ = class_scores(maps, torch.tensor([3, 4]), Preparation(sharpen=2.0), alpha=3.0)
    assert torch.allclose(sharp, alone**2 / (alone**2).sum(0), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_a_given_mask_is_cleaned_and_its_unknown_pixels_filled(dtype):
    image, _ = two_halves()
    truth = torch.zeros(24, 30, dtype=torch.int32)
    truth[:, 15:] = 6
    rough = truth.clone()
    rough[3, 4], rough[10, 20] = 6, 0
    rough[:, 14:17] = torch.iinfo(dtype).max
    found = refine_mask(rough.to(dtype), image, CRF)
    assert found.dtype == dtype
    assert torch.equal(found.int(), truth)


def test_a_mask_of_one_class_stays_and_one_without_any_becomes_background():
    image = picture(5, 6)
    one = torch.full((5, 6), 4, dtype=torch.uint8)
    one[2, 2] = 255
    assert refine_mask(one, image, CRF).eq(4).all()
    assert refine_mask(torch.full((5, 6), 255, dtype=torch.uint8), image, CRF).eq(0).all()
    with pytest.raises(ValueError, match="uint8 or uint16"):
        refine_mask(one.long(), image, CRF)


def test_preparation_without_meaning_is_refused():
    with pytest.raises(ValueError, match="--sign negative"):
        Preparation(sign="negative")
    with pytest.raises(ValueError, match="sharpen"):
        Preparation(sharpen=0)
