import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from tests.scores import oracle_segmentation as oracle
from xseg.errors import BadInput
from xseg.scores.counts import ImageCounts, compact, count_table, curve_totals
from xseg.scores.segmentation import SegmentationScore, tune_threshold
from xseg.scores.sweep import SWEEP

CLASSES = ("cat", "dog", "hat")


def random_masks(seed, images=6, size=(9, 11)):
    rng = np.random.default_rng(seed)
    truths = [rng.choice([0, 1, 2, 255], size=size, p=[0.5, 0.2, 0.2, 0.1]).astype(np.uint8) for _ in range(images)]
    return [(np.where(rng.random(size) < 0.7, t % 255, rng.integers(0, 3, size)).astype(np.uint8), t) for t in truths]


def random_maps(seed, images=6, size=(6, 7)):
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(images):
        ids = np.sort(rng.choice([1, 2, 3], size=rng.integers(0, 3), replace=False)).astype(np.int32)
        truth = rng.choice([0, *ids.tolist(), 255], size=size).astype(np.uint8)
        maps = np.stack([np.clip(rng.random(size) * 0.6 + 0.4 * (truth == c), 0, 1) for c in ids] or [np.zeros(size)])
        out.append((maps[: len(ids)].astype(np.float16), ids, truth))
    return out


def score_masks(pairs, **options):
    score = SegmentationScore(CLASSES, **options)
    for number, (prediction, truth) in enumerate(pairs):
        score.add_mask(prediction, truth, image=f"{number:03}")
    return score


def score_maps(items, **options):
    score = SegmentationScore(CLASSES, **options)
    for number, (maps, ids, truth) in enumerate(items):
        score.add_maps(maps, ids, truth, image=f"{number:03}")
    return score


def test_iou_equals_sklearn_over_the_pooled_pixels_of_known_truth():
    pairs = random_masks(0)
    result = score_masks(pairs).result(replicates=0)
    prediction, truth = (np.concatenate([pair[k].ravel() for pair in pairs]) for k in (0, 1))
    known = truth != 255
    expected = jaccard_score(truth[known], prediction[known], average=None)
    assert result.per_class_iou["hat"] is None
    assert [result.per_class_iou[name] for name in ("background", "cat", "dog")] == pytest.approx(expected.tolist())
    assert result.miou == pytest.approx(expected.mean())
    assert result.pixel_accuracy == pytest.approx((truth == prediction)[known].mean())


def test_a_perfect_prediction_scores_one_and_absent_classes_are_left_out():
    truth = np.array([[0, 1, 255]], np.uint8)
    result = score_masks([(np.array([[0, 1, 2]], np.uint8), truth)]).result()
    assert result.miou == result.pixel_accuracy == 1
    assert result.per_class_iou == {"background": 1, "cat": 1, "dog": None, "hat": None}
    assert result.false_positive["cat"] == result.false_negative["cat"] == 0
    assert result.interval == (1, 1)


def test_a_class_predicted_but_never_true_counts_as_zero():
    result = score_masks([(np.array([[0, 2]], np.uint8), np.array([[0, 0]], np.uint8))]).result()
    assert result.per_class_iou == {"background": 0.5, "cat": None, "dog": 0, "hat": None}
    assert result.miou == 0.25


def test_images_whose_truth_is_all_unknown_change_nothing():
    pairs = random_masks(1)
    blank = (np.ones((4, 4), np.uint8), np.full((4, 4), 255, np.uint8))
    plain, more = score_masks(pairs).result(replicates=0), score_masks([*pairs, blank]).result(replicates=0)
    assert more.images == plain.images + 1
    assert more.miou == plain.miou
    assert np.array_equal(more.confusion, plain.confusion)


@pytest.mark.parametrize("average", ["present", "psa"])
def test_a_set_of_unknown_truth_only_has_no_score_and_no_nan(average):
    blank = (np.ones((4, 4), np.uint8), np.full((4, 4), 255, np.uint8))
    result = score_masks([blank], average=average).result()
    assert result.pixel_accuracy is None
    assert result.miou == (None if average == "present" else 0)
    swept = score_maps([(np.ones((1, 4, 4), np.float16), np.array([1]), blank[1])]).result()
    assert swept.miou is None
    assert swept.best is None
    assert {miou for _, miou in swept.sweep} == {None}


def test_the_psa_way_counts_absent_classes_as_zero():
    pairs = random_masks(2)
    total = sum(oracle.counts(prediction, truth, 4, 255) for prediction, truth in pairs)
    result = score_masks(pairs, average="psa").result()
    assert result.miou == pytest.approx(oracle.mean_iou_psa(total), abs=1e-12)
    assert result.per_class_iou["hat"] == 0
    assert result.miou < score_masks(pairs).result().miou


def test_iou_and_error_rates_add_up_to_one():
    result = score_masks(random_masks(3)).result()
    for name in ("background", "cat", "dog"):
        total = result.per_class_iou[name] + result.false_positive[name] + result.false_negative[name]
        assert total == pytest.approx(1)
    assert result.miou + result.mean_false_positive + result.mean_false_negative == pytest.approx(1)


def test_pixels_left_unknown_by_the_prediction_are_misses_but_no_false_positives():
    prediction, truth = np.array([[1, 255, 0, 255]], np.uint8), np.array([[1, 1, 0, 255]], np.uint8)
    result = score_masks([(prediction, truth)]).result()
    assert result.per_class_iou["cat"] == 0.5
    assert result.false_negative["cat"] == 0.5
    assert result.per_class_iou["background"] == 1
    assert result.pixel_accuracy == pytest.approx(2 / 3)
    assert result.unknown == pytest.approx(1 / 3)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_the_curve_equals_scoring_masks_made_at_every_threshold(seed):
    items = random_maps(seed, images=3, size=(3, 4))
    curve = score_maps(items).curve()
    assert [t for t, _ in curve] == list(SWEEP)
    for threshold, miou in curve:
        total = sum(
            oracle.counts(oracle.predict(maps, ids.tolist(), threshold), truth, 4, 255) for maps, ids, truth in items
        )
        expected = oracle.mean_iou(total)
        assert (np.isnan(miou) and expected is None) or miou == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("threshold", [0.2, 0.37, 0.4321])
def test_the_fixed_threshold_scores_as_the_masks_made_at_it(threshold):
    items = random_maps(4)
    made = [(oracle.predict(maps, ids.tolist(), threshold).astype(np.uint8), truth) for maps, ids, truth in items]
    swept = score_maps(items, threshold=threshold).result(replicates=50)
    masks = score_masks(made).result(replicates=50)
    assert np.array_equal(swept.confusion, masks.confusion)
    assert swept.per_class_iou == masks.per_class_iou
    assert (swept.miou, swept.interval, swept.pixel_accuracy) == (masks.miou, masks.interval, masks.pixel_accuracy)
    assert swept.background_threshold == threshold
    assert masks.background_threshold is masks.best is None
    assert masks.sweep == ()


def test_a_fixed_threshold_off_the_sweep_is_never_the_best():
    items = random_maps(5)
    score = score_maps(items, threshold=0.5, thresholds=(0.1, 0.9))
    assert [t for t, _ in score.curve()] == [0.1, 0.9]
    assert score.result().best.background_threshold in (0.1, 0.9)
    assert score.result().miou > score.result().best.miou


def test_the_best_threshold_is_the_top_of_the_curve_and_can_be_fixed_for_another_split():
    tune, val = random_maps(6), random_maps(7)
    score = score_maps(tune)
    result = score.result()
    assert result.best.miou == max(miou for _, miou in result.sweep)
    assert dict(result.sweep)[result.best.background_threshold] == result.best.miou
    threshold = tune_threshold(score)
    assert threshold == result.best.background_threshold
    fixed = score_maps(val, threshold=threshold).result()
    assert fixed.miou == dict(fixed.sweep)[threshold] <= fixed.best.miou


def test_tuning_needs_maps_without_background():
    with pytest.raises(BadInput, match="no threshold can be tuned"):
        tune_threshold(score_masks(random_masks(0)))


def test_maps_with_background_are_scored_by_argmax_with_ties_to_background():
    maps = np.array([[[0.9, 0.5, 0.1]], [[0.9, 0.4, 0.2]], [[0.2, 0.6, 0.2]]], np.float32)
    truth = np.array([[0, 3, 1]], np.uint8)
    for order in ([0, 1, 2], [2, 0, 1]):
        score = SegmentationScore(CLASSES)
        ids = np.array([0, 1, 3])[order]
        score.add_maps_with_background(maps[order], ids, truth, image="a")
        result = score.result()
        assert result.miou == 1
        assert result.best is None


def test_maps_with_background_need_a_background():
    with pytest.raises(BadInput, match="no background channel"):
        SegmentationScore(CLASSES).add_maps_with_background(
            np.zeros((1, 2, 2), np.float32), np.array([1]), np.zeros((2, 2), np.uint8), image="a"
        )


@pytest.mark.parametrize("seed", range(3))
def test_order_and_sharding_change_nothing(seed):
    items = random_maps(seed, images=8)
    whole = score_maps(items).result(replicates=100)
    shards = [SegmentationScore(CLASSES) for _ in range(4)]  # the last stays empty
    for number in np.random.default_rng(seed).permutation(8):
        maps, ids, truth = items[number]
        shards[number % 3].add_maps(maps, ids, truth, image=f"{number:03}")
    merged = SegmentationScore(CLASSES)
    for shard in shards:
        merged.merge(shard)
    again = merged.result(replicates=100)
    assert np.array_equal(again.confusion, whole.confusion)
    for name in ("images", "miou", "interval", "per_class_iou", "best", "sweep", "pixel_accuracy", "false_positive"):
        assert getattr(again, name) == getattr(whole, name), name


def test_counters_of_many_large_images_go_beyond_32_bits():
    most = np.array([2**31 - 1], np.int32)  # the largest image whose counts are kept in 32 bits
    image = ImageCounts(np.array([1], np.int32), most[None], most[None], most)
    images = {str(number): image for number in range(5)}
    assert count_table(images, 4, 0).totals()[1].tolist() == [5 * (2**31 - 1)] * 3
    true_positive, predicted, truth = curve_totals(images, 4, 1)
    assert true_positive[0, 1] == predicted[0, 1] == truth[1] == 5 * (2**31 - 1)


def test_an_image_of_more_than_31_bits_of_pixels_is_counted_in_64():
    counts = np.array([2**32, 5], np.int64)
    kept = compact(np.array([0, 1]), counts[None], counts[None], counts)
    assert kept.truth.tolist() == kept.predicted[0].tolist() == [2**32, 5]


def test_an_image_scored_twice_is_refused_in_one_run_and_across_shards():
    first, second = score_masks(random_masks(0, images=1)), score_masks(random_masks(1, images=1))
    with pytest.raises(BadInput, match="000 was scored twice"):
        first.add_mask(*random_masks(0, images=1)[0], image="000")
    with pytest.raises(BadInput, match="000 was scored twice"):
        first.merge(second)


def test_masks_and_swept_maps_do_not_mix():
    score = score_masks(random_masks(0, images=1))
    maps, ids, truth = random_maps(0, images=1)[0]
    with pytest.raises(BadInput, match="score them as two runs"):
        score.add_maps(maps, ids, truth, image="b")


def test_a_refused_image_leaves_the_score_as_it_was():
    score = score_masks(random_masks(0))
    before = score.result()
    with pytest.raises(BadInput, match="a mask of another size"):
        score.add_mask(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), image="bad")
    after = score.result()
    assert (before.miou, before.images) == (after.miou, after.images)


def test_merging_different_settings_and_scoring_nothing_are_refused():
    with pytest.raises(ValueError, match="threshold"):
        SegmentationScore(CLASSES).merge(SegmentationScore(CLASSES, threshold=0.3))
    with pytest.raises(BadInput, match="no image was scored"):
        SegmentationScore(CLASSES).result()


def test_missing_images_are_counted_and_not_scored():
    score = score_masks(random_masks(0))
    plain = score.result().miou
    score.add_missing("x")
    score.add_missing("x")
    assert (score.result().missing, score.result().miou) == (1, plain)


def test_class_names_that_cannot_be_told_apart_are_refused():
    for names in (("cat", "cat"), ("background", "cat")):
        with pytest.raises(BadInput, match="class names"):
            SegmentationScore(names)
