import numpy as np
import pytest

from tests.scores import oracle_segmentation as oracle
from tests.scores.test_segmentation import CLASSES, random_maps, random_masks, score_maps, score_masks
from xseg.errors import BadInput
from xseg.scores.bootstrap import bootstrap_mean_iou, draws, interval, paired_difference
from xseg.scores.segmentation import SegmentationScore


def test_resampled_scores_equal_pooling_the_drawn_images_pixel_by_pixel():
    pairs = random_masks(0, images=5)
    values = bootstrap_mean_iou(score_masks(pairs).table(), 150, seed=3)
    per_image = [oracle.counts(prediction, truth, 4, 255) for prediction, truth in pairs]
    drawn = np.concatenate(list(draws(5, 150, 3)))
    assert (drawn.sum(axis=1) == 5).all()
    for weights, value in zip(drawn, values, strict=True):
        pooled = sum(int(times) * count for times, count in zip(weights, per_image, strict=True))
        assert value == pytest.approx(oracle.mean_iou(pooled), abs=1e-12)
    result = score_masks(pairs).result(replicates=150, seed=3)
    assert result.interval == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))


def test_draws_are_uniform_over_images():
    total = sum(chunk.sum(axis=0) for chunk in draws(10, 2000, 0))
    assert total.sum() == 20000
    assert np.abs(total - 2000).max() < 5 * np.sqrt(2000)


def test_the_same_seed_gives_the_same_interval_and_another_a_different_one():
    score = score_masks(random_masks(1))
    assert score.result(seed=1).interval == score.result(seed=1).interval
    assert score.result(seed=1).interval != score.result(seed=2).interval


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_covers_the_point_estimate(seed):
    result = score_maps(random_maps(seed, images=20)).result(replicates=300)
    assert result.interval[0] < result.miou < result.interval[1]
    assert result.best.interval[0] < result.best.miou < result.best.interval[1]


def test_the_interval_narrows_with_more_images():
    few, many = (score_masks(random_masks(0, images=n)).result().interval for n in (8, 128))
    assert 2 < (few[1] - few[0]) / (many[1] - many[0]) < 8  # about sqrt(128 / 8) = 4


def test_without_replicates_or_numbers_there_is_no_interval():
    assert score_masks(random_masks(0)).result(replicates=0).interval is None
    assert interval(np.array([np.nan])) is None


def test_dense_counts_are_those_of_each_image():
    pairs = random_masks(4, images=3)
    dense = score_masks(pairs).table().dense()
    for image, (prediction, truth) in enumerate(pairs):
        assert np.array_equal(dense[image], oracle.counts(prediction, truth, 4, 255))


def test_a_paired_difference_is_narrower_than_two_separate_intervals():
    rng = np.random.default_rng(0)
    better, worse = [], []
    for prediction, truth in random_masks(5, images=30):
        noise = rng.random()  # images differ much in difficulty, the two runs little
        first = np.where(rng.random(truth.shape) < noise, 0, prediction).astype(np.uint8)
        second = np.where(rng.random(truth.shape) < 0.05, 1, first).astype(np.uint8)
        better.append((first, truth))
        worse.append((second, truth))
    first, second = score_masks(better), score_masks(worse)
    found = paired_difference(first.table(), second.table())
    assert found.difference == pytest.approx(first.result().miou - second.result().miou)
    assert 0 < found.interval[0] < found.difference < found.interval[1]
    low, high = first.result().interval
    assert found.interval[1] - found.interval[0] < (high - low) / 2
    assert found.images == 30


def test_a_run_does_not_differ_from_itself():
    table = score_maps(random_maps(1)).table()
    found = paired_difference(table, table)
    assert (found.difference, found.interval) == (0, (0, 0))


def test_paired_runs_must_share_images_and_truth():
    pairs = random_masks(0, images=3)
    with pytest.raises(BadInput, match="same images"):
        paired_difference(score_masks(pairs).table(), score_masks(pairs[:2]).table())
    other = [(prediction, np.zeros_like(truth)) for prediction, truth in pairs]
    with pytest.raises(BadInput, match="different masks"):
        paired_difference(score_masks(pairs).table(), score_masks(other).table())


def test_the_table_at_a_threshold_holds_the_counts_of_that_threshold():
    score = score_maps(random_maps(2))
    best = score.best_threshold()[0]
    assert not np.array_equal(score.table().counts, score.table(0.9).counts)
    totals = score.table(best).totals()
    assert oracle.mean_iou(totals) == pytest.approx(score.result().best.miou)


def test_an_empty_score_has_an_empty_table():
    assert SegmentationScore(CLASSES).table().dense().shape == (0, 4, 3)
