import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.labels.oracle_meanfield import block_means, psa_labels
from tests.labels.pictures import picture, soft_scores
from xseg.labels.confident import (
    IRN_KERNELS,
    confident_labels,
    confident_posteriors,
    label_probabilities,
    pool_blocks,
    pool_labels,
    threshold_labels,
    with_background,
    with_threshold,
)
from xseg.labels.meanfield import Kernels, LatticeMeanField, mean_field
from xseg.labels.refinement import DenseCrf

BACKEND = LatticeMeanField()
CRF = DenseCrf(Kernels(), BACKEND)


def column(*scores):
    """(L,1,1) scores of one pixel."""
    return torch.tensor(scores)[:, None, None]


def test_background_is_one_minus_the_highest_map_to_the_power_of_alpha():
    maps = torch.tensor([[[0.5, 0.0]], [[0.25, 1.0]]])
    expected = torch.tensor([[[0.0625, 0.0]], [[0.5, 0.0]], [[0.25, 1.0]]])
    torch.testing.assert_close(with_background(maps, 4), expected)
    torch.testing.assert_close(with_threshold(maps, 0.2)[0], torch.full((1, 2), 0.2))
    with pytest.raises(ValueError, match="alpha is 0"):
        with_background(maps, 0)


@pytest.mark.parametrize(
    ("low", "high", "label"),
    [
        ((0.1, 0.8, 0.1), (0.1, 0.2, 0.7), 7),  # low decides which class
        ((0.1, 0.1, 0.8), (0.1, 0.2, 0.7), 9),
        ((0.8, 0.1, 0.1), (0.2, 0.7, 0.1), 255),  # background only when generous
        ((0.8, 0.1, 0.1), (0.8, 0.1, 0.1), 0),
        ((0.1, 0.8, 0.1), (0.8, 0.1, 0.1), 0),  # contradiction: the later line wins
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 255),  # outside the image
        ((0.0, 0.0, 9e-6), (0.0, 9e-6, 0.0), 255),
        ((0.0, 0.0, 2e-5), (0.0, 9e-6, 0.0), 9),
    ],
)
def test_each_case_of_the_published_rule(low, high, label):
    found = confident_labels(column(*low), column(*high), torch.tensor([7, 9]))
    assert found.dtype == torch.uint8
    assert found.tolist() == [[label]]


@settings(max_examples=20, deadline=None)
@given(classes=st.integers(0, 4), block=st.sampled_from([1, 2, 8]), seed=st.integers(0, 999))
def test_labels_equal_the_rule_applied_pixel_by_pixel(classes, block, seed):
    random = np.random.default_rng(seed)
    low, high = random.random((2, classes + 1, 16, 24)).astype(np.float32)
    low[:, :8], high[:, :8] = 0, 0
    class_id = random.permutation(20)[:classes] + 1
    expected = psa_labels(block_means(low, block), block_means(high, block), class_id)
    found = confident_labels(torch.from_numpy(low), torch.from_numpy(high), torch.from_numpy(class_id), block)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_published_labels_of_a_crop_pooled_8_by_8(shared):
    stored = np.load(shared("reference/fixtures/psa_crf.npz"))
    crop = torch.from_numpy(stored["affset/crop_posteriors"]).permute(2, 0, 1)
    low, high = crop[:3], crop[3:]
    pooled = stored["affset/pooled"].transpose(2, 0, 1)
    np.testing.assert_allclose(pool_blocks(crop, 8).numpy(), pooled, atol=1e-6)
    found = confident_labels(low, high, torch.tensor([1, 2]), 8)
    np.testing.assert_array_equal(found.numpy(), stored["affset/label"])
    la, ha = (torch.from_numpy(stored[f"affset2/{name}"]) for name in ("la", "ha"))
    found = confident_labels(la, ha, torch.tensor([1, 2]), 8)
    np.testing.assert_array_equal(found.numpy(), stored["affset2/label"])


def test_more_than_254_classes_need_two_bytes():
    labels = confident_labels(column(0.1, 0.9), column(0.2, 0.8), torch.tensor([300]))
    assert (labels.dtype, labels.long().tolist()) == (torch.uint16, [[300]])
    labels = confident_labels(column(0.9, 0.1), column(0.2, 0.8), torch.tensor([3]), classes=255)
    assert (labels.dtype, labels.long().tolist()) == (torch.uint16, [[65535]])


def test_score_maps_must_be_one_more_than_classes():
    with pytest.raises(ValueError, match="one more for the background"):
        confident_labels(torch.ones(2, 4, 4), torch.ones(2, 4, 4), torch.tensor([1, 2]))


def test_an_image_without_labels_is_all_background():
    none, nothing = torch.zeros(0, 6, 7), torch.zeros(0, dtype=torch.int32)
    low, high = confident_posteriors(none, picture(6, 7), CRF)
    assert confident_labels(low, high, nothing).eq(0).all()
    assert threshold_labels(none, nothing, picture(6, 7), CRF).eq(0).all()


def test_both_posteriors_are_those_of_separate_runs():
    maps, image = soft_scores(1, 2, 20, 22)[0], picture(20, 22)
    pair = confident_posteriors(maps, image, CRF, (2.0, 16.0))
    for posterior, alpha in zip(pair, (2.0, 16.0), strict=True):
        alone = mean_field(with_background(maps, alpha)[None], image, Kernels(), BACKEND)[0]
        torch.testing.assert_close(posterior, alone, atol=1e-5, rtol=0)


def test_pooled_labels_are_the_most_frequent_of_each_block():
    labels = torch.tensor([[1, 1, 255, 0, 9], [1, 0, 255, 0, 9], [5, 5, 5, 5, 5]], dtype=torch.uint8)
    assert pool_labels(labels, 2).tolist() == [[1, 0]]
    assert pool_labels(labels, 2).dtype == torch.uint8


def test_pooled_labels_differ_from_labels_of_pooled_scores_where_a_few_pixels_are_sure():
    scores = torch.tensor([[0.55, 0.55, 0.55, 0.0], [0.45, 0.45, 0.45, 1.0]]).reshape(2, 2, 2)
    per_pixel = confident_labels(scores, scores, torch.tensor([4]))
    assert pool_labels(per_pixel, 2).tolist() == [[0]]
    assert confident_labels(scores, scores, torch.tensor([4]), 2).tolist() == [[4]]


def test_hard_labels_become_the_probabilities_of_unary_from_labels():
    utils = pytest.importorskip("pydensecrf.utils", reason="pydensecrf is not installed")
    rows = torch.tensor([[0, 2, 1], [1, 1, 0]])
    found = label_probabilities(rows, 3, 0.7)
    expected = utils.unary_from_labels(rows.numpy(), 3, gt_prob=0.7, zero_unsure=False).reshape(3, 2, 3)
    np.testing.assert_allclose(-found.log().numpy(), expected, rtol=1e-5)


def test_an_unsure_label_makes_all_labels_equally_likely():
    found = label_probabilities(torch.tensor([[255, 1]]), 4, 0.7)
    torch.testing.assert_close(found[:, 0, 0], torch.full((4,), 0.25))
    torch.testing.assert_close(found[:, 0, 1], torch.tensor([0.1, 0.7, 0.1, 0.1]))
    with pytest.raises(ValueError, match="confidence is 1"):
        label_probabilities(torch.tensor([[0]]), 2, 1.0)


def test_two_thresholds_give_class_unknown_and_background_without_iterations():
    maps = torch.tensor([[[0.9, 0.2, 0.01]], [[0.1, 0.1, 0.02]]])
    kernels = Kernels(iterations=0)
    found = threshold_labels(maps, torch.tensor([5, 8]), picture(1, 3), DenseCrf(kernels, BACKEND))
    assert found.tolist() == [[5, 255, 0]]


def test_two_thresholds_use_the_crf_of_their_own_kernels():
    assert (IRN_KERNELS.bilateral_sxy, IRN_KERNELS.bilateral_srgb, IRN_KERNELS.bilateral_compat) == (50, 5, 10)
    maps = torch.zeros(1, 24, 24)
    maps[0, :, :12] = 0.8
    maps[0, 5, 20] = 0.8  # a single seed far from the object
    found = threshold_labels(maps, torch.tensor([3]), picture(24, 24), DenseCrf(IRN_KERNELS, BACKEND))
    assert found[5, 20] == 0
    assert found[10, 3] == 3
