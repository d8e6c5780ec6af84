from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.labels.oracle_pixel_adaptive import averaged, pamr_weights, par_weights
from tests.labels.pictures import picture, soft_scores
from xseg.labels import pixel_adaptive
from xseg.labels.pixel_adaptive import PRESETS, PixelAdaptive, neighbour_weights, spread

PAR, PAMR = (replace(PRESETS[name], dilations=(1, 2, 4), iterations=3) for name in ("par", "pamr"))


@pytest.mark.parametrize("noise", [0.0, 20.0])
def test_par_is_what_the_published_lines_compute_but_for_its_growing_sum(noise):
    image, scores = picture(9, 11, noise), soft_scores(1, 3, 9, 11)[0]
    expected = par_weights(image.numpy(), (1, 2, 4), 0.3, 0.3, 0.01)
    assert np.allclose(expected.sum(0), 1.01)
    found = neighbour_weights(image[None], PAR)[0]
    assert np.allclose(found.numpy() * 1.01, expected, atol=1e-5)
    maps = averaged(scores.numpy(), expected, (1, 2, 4), 3)
    assert np.allclose(PAR(scores[None], image)[0].numpy() * 1.01**3, maps, atol=1e-5)


@pytest.mark.parametrize("noise", [0.0, 20.0])
def test_pamr_is_what_the_published_lines_compute(noise):
    image, scores = picture(9, 11, noise), soft_scores(1, 2, 9, 11)[0]
    expected = pamr_weights(image.numpy(), (1, 2, 4), 0.1)
    assert np.allclose(neighbour_weights(image[None], PAMR)[0].numpy(), expected, atol=1e-5)
    maps = averaged(scores.numpy(), expected, (1, 2, 4), 3)
    assert np.allclose(PAMR(scores[None], image)[0].numpy(), maps, atol=1e-5)


def test_a_flat_image_gives_equal_weights_and_one_pixel_apart_changes_nothing_of_that():
    flat = torch.full((1, 7, 8, 3), 90, dtype=torch.uint8)
    assert torch.allclose(neighbour_weights(flat, PAMR), torch.tensor(1 / 24))
    flat[0, 3, 4, 1] = 250
    assert torch.allclose(neighbour_weights(flat, PAMR)[0, :, 3, 4], torch.tensor(1 / 24))


@pytest.mark.parametrize("constants", [PAR, PAMR])
@given(height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_averages_keep_constants_sums_and_mirrors(constants, height, width, seed):
    image, scores = picture(height, width, 30, seed), soft_scores(2, 3, height, width, seed)
    found = constants(scores, image)
    assert torch.allclose(found.sum(1), torch.ones(2, height, width), atol=1e-5)
    assert torch.allclose(constants(torch.full_like(scores, 0.3), image), torch.tensor(0.3), atol=1e-5)
    mirrored = constants(scores.flip(3), image.flip(1)).flip(3)
    assert torch.allclose(mirrored, found, atol=1e-5)


def test_a_batch_and_bands_of_rows_give_what_each_image_gives_alone(monkeypatch):
    images = torch.stack([picture(13, 9, 20, seed) for seed in (0, 1)])
    maps = torch.stack([soft_scores(1, 3, 13, 9, seed)[0] for seed in (0, 1)])
    alone = torch.stack([PAR(one[None], image)[0] for one, image in zip(maps, images, strict=True)])
    monkeypatch.setattr(pixel_adaptive, "BAND", 20)
    weights = neighbour_weights(images, PAR)
    assert torch.allclose(spread(maps, weights, PAR), alone, atol=1e-6)


def test_the_edge_of_a_map_moves_to_the_edge_in_the_image():
    image = torch.zeros(24, 30, 3, dtype=torch.uint8)
    image[:, 15:] = 200
    leaking = torch.sigmoid((torch.arange(30) - 11).float() / 4).expand(24, 30)
    scores = torch.stack([torch.full_like(leaking, 0.5), leaking])
    truth = (torch.arange(30) >= 15).expand(24, 30)
    found = PixelAdaptive(iterations=20)(scores[None], image)[0].argmax(0).bool()
    assert (scores.argmax(0).bool() != truth).sum() > 50
    assert torch.equal(found, truth)


def test_no_iteration_returns_the_maps():
    scores = soft_scores(1, 2, 5, 6)
    assert torch.equal(replace(PAR, iterations=0)(scores, picture(5, 6)), scores)


@pytest.mark.parametrize(
    "change",
    [
        {"dilations": ()},
        {"dilations": (0, 1)},
        {"dilations": (1.5,)},
        {"colour_width": 0},
        {"position_width": -1},
        {"position_weight": -0.1},
        {"iterations": -1},
        {"power": 3},
    ],
)
def test_what_has_no_meaning_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        PixelAdaptive(**change)
    with pytest.raises(ValueError, match="uint8"):
        neighbour_weights(torch.zeros(1, 4, 4, 3), PAR)
