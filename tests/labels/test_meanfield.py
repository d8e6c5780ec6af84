import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.labels.oracle_meanfield import dense_mean_field, gaussian_matrix
from tests.labels.pictures import picture, soft_scores
from xseg.labels.lattice import Lattice
from xseg.labels.meanfield import (
    Kernels,
    LatticeMeanField,
    colour_features,
    grid_features,
    mean_field,
    mean_field_batch,
)

KERNELS = Kernels()


def features_of(image):
    near = grid_features(*image.shape[:2], KERNELS.gaussian_sxy, torch.device("cpu")).reshape(1, -1, 2)
    return near, colour_features(image[None], KERNELS.bilateral_sxy, KERNELS.bilateral_srgb)


def run(probabilities, image, kernels=KERNELS):
    return mean_field(probabilities, image, kernels, LatticeMeanField())


@pytest.mark.parametrize(("size", "noise"), [((17, 23), 0), ((20, 16), 40), ((1, 31), 20), ((13, 1), 20), ((2, 3), 0)])
def test_equals_mean_field_written_out_with_the_lattice_as_a_dense_matrix(size, noise):
    image, scores = picture(*size, noise=noise), soft_scores(2, 3, *size)
    unit = torch.eye(size[0] * size[1])[None]
    near, alike = (Lattice.build(f).filter(unit)[0].double().numpy() for f in features_of(image))
    found = run(scores, image).numpy()
    for term, posterior in zip(scores.numpy(), found, strict=True):
        expected = dense_mean_field(term.reshape(3, -1), [(3, near), (10, alike)], 10)
        np.testing.assert_allclose(posterior.reshape(3, -1), expected, atol=2e-5)


def test_stays_near_the_exact_gaussian_crf():
    image, scores = picture(30, 40, noise=5), soft_scores(1, 3, 30, 40)
    near, alike = (gaussian_matrix(f[0].numpy()) for f in features_of(image))
    expected = dense_mean_field(scores[0].reshape(3, -1).numpy(), [(3, near), (10, alike)], 10)
    found = run(scores, image)[0].reshape(3, -1).numpy()
    assert np.abs(found - expected).mean() < 0.02
    assert (found.argmax(0) != expected.argmax(0)).mean() < 0.02


def test_noise_in_the_scores_is_removed():
    image = picture(32, 32)
    scores = torch.full((1, 2, 32, 32), 0.2)
    scores[:, 0] = 0.8
    scores[0, :, 16, 16] = torch.tensor([0.3, 0.7])
    assert scores[0].argmax(0).sum() == 1
    assert run(scores, image)[0].argmax(0).sum() == 0


def test_no_iteration_gives_the_normalised_unary():
    scores = soft_scores(1, 3, 9, 11) * 0.5
    expected = scores.clamp(1e-5) / scores.clamp(1e-5).sum(1, keepdim=True)
    torch.testing.assert_close(run(scores, picture(9, 11), Kernels(iterations=0)), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (2, 3)])
def test_tiny_images_work_and_sum_to_one(size):
    found = run(soft_scores(2, 3, *size), picture(*size))
    torch.testing.assert_close(found.sum(1), torch.ones(2, *size))


def test_one_label_alone_stays():
    assert torch.equal(run(torch.full((2, 1, 6, 7), 0.3), picture(6, 7)), torch.ones(2, 1, 6, 7))


def test_terms_of_one_image_do_not_influence_each_other():
    image, scores = picture(21, 18, noise=20), soft_scores(3, 4, 21, 18)
    together = run(scores, image)
    for term, posterior in zip(scores, together, strict=True):
        torch.testing.assert_close(run(term[None], image)[0], posterior, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(16, 24), (15, 19)])
def test_a_batch_equals_its_images_alone(size):
    images = torch.stack([picture(*size, noise=noise, seed=noise) for noise in (0, 20, 60)])
    scores = torch.stack([soft_scores(2, 3, *size, seed=seed) for seed in range(3)])
    backend = LatticeMeanField()
    together = mean_field_batch(scores, images, KERNELS, backend)
    for term, image, found in zip(scores, images, together, strict=True):
        torch.testing.assert_close(found, mean_field(term, image, KERNELS, backend), atol=1e-5, rtol=0)
    single = mean_field_batch(scores[:, 0], images, KERNELS, backend)
    torch.testing.assert_close(single, together[:, 0], atol=1e-5, rtol=0)


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    order=st.permutations(range(4)),
    noise=st.sampled_from([0, 20, 60]),
    seed=st.integers(0, 99),
)
def test_posteriors_sum_to_one_and_follow_a_permutation_of_the_classes(height, width, order, noise, seed):
    image, scores = picture(height, width, noise, seed), soft_scores(1, 4, height, width, seed)
    found = run(scores, image)
    torch.testing.assert_close(found.sum(1), torch.ones(1, height, width))
    torch.testing.assert_close(run(scores[:, order], image), found[:, order], atol=2e-5, rtol=0)


def test_position_lattices_are_kept_by_the_instance_up_to_a_bound():
    backend = LatticeMeanField(cached_sizes=2)
    for width in (5, 6, 7, 7):
        mean_field(soft_scores(1, 2, 4, width), picture(4, width), KERNELS, backend)
    assert backend._kept.cache_info().currsize == 2
    assert backend._kept.cache_info().hits == 1
    assert LatticeMeanField()._kept.cache_info().currsize == 0


def test_settings_and_arguments_without_meaning_are_refused():
    with pytest.raises(ValueError, match="bilateral_srgb is 0"):
        Kernels(bilateral_srgb=0)
    with pytest.raises(ValueError, match="iterations is -1"):
        Kernels(iterations=-1)
    with pytest.raises(ValueError, match="uint8"):
        run(soft_scores(1, 2, 4, 5), picture(4, 5).float())
    with pytest.raises(ValueError, match="image has shape"):
        run(soft_scores(1, 2, 4, 5), picture(5, 4))
    with pytest.raises(ValueError, match="some labels"):
        run(torch.zeros(1, 0, 4, 5), picture(4, 5))


@pytest.mark.gpu
@pytest.mark.parametrize("noise", [0, 20, 60])
def test_cuda_equals_cpu(noise):
    images = torch.stack([picture(61, 75, noise=noise, seed=seed) for seed in range(2)])
    scores = torch.stack([soft_scores(2, 3, 61, 75, seed=seed) for seed in range(2)])
    expected = mean_field_batch(scores, images, KERNELS, LatticeMeanField())
    found = mean_field_batch(scores.cuda(), images.cuda(), KERNELS, LatticeMeanField()).cpu()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert torch.equal(found.argmax(2), expected.argmax(2))
