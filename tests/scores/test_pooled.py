import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score

from xseg.scores.bootstrap import draws
from xseg.scores.confusion import confusion_matrix
from xseg.scores.pooled import PooledPixels


def label_maps(count, seed=0):
    rng = np.random.default_rng(seed)
    truth = [rng.choice([0, 0, 1, 2, 255], rng.integers(2, 9, 2)).astype(np.uint8) for _ in range(count)]
    return [
        (np.where(rng.random(one.shape) < 0.4, rng.integers(0, 3), one % 255).astype(np.uint8), one) for one in truth
    ]


def filled(pairs, order=None):
    pixels = PooledPixels(3)
    for k in range(len(pairs)) if order is None else order:
        pixels.add(f"{k:03}", confusion_matrix(*pairs[k], 3))
    return pixels


def flat(pairs):
    known = [(truth[truth != 255], prediction[truth != 255]) for prediction, truth in pairs]
    return [np.concatenate(some) for some in zip(*known, strict=True)]


def test_accuracy_and_iou_equal_scikit_learn_over_all_pixels():
    pairs = label_maps(8)
    pixels = filled(pairs)
    truth, prediction = flat(pairs)
    assert pixels.accuracy(0, 0) == {
        "pixel_accuracy": pytest.approx(accuracy_score(truth, prediction)), "pixel_accuracy_interval": None,
    }  # fmt: skip
    expected = jaccard_score(truth, prediction, labels=[0, 1, 2], average=None)
    assert pixels.per_class() == pytest.approx(expected.tolist())
    assert pixels.mean_iou(0, 0)["miou"] == pytest.approx(expected.mean())


def test_intervals_equal_scoring_every_resample_anew():
    pairs = label_maps(6, seed=1)
    weights = np.concatenate(list(draws(6, 100, 7)))
    accuracies, means = [], []
    for row in weights:
        drawn = [pair for pair, times in zip(pairs, row, strict=True) for _ in range(int(times))]
        truth, prediction = flat(drawn)
        accuracies.append(accuracy_score(truth, prediction))
        present = np.union1d(truth, prediction)
        means.append(jaccard_score(truth, prediction, labels=present, average="macro"))
    pixels = filled(pairs)
    expected = np.percentile(accuracies, [2.5, 97.5]).tolist()
    assert pixels.accuracy(100, 7)["pixel_accuracy_interval"] == pytest.approx(expected)
    assert pixels.mean_iou(100, 7)["miou_interval"] == pytest.approx(np.percentile(means, [2.5, 97.5]).tolist())


def test_the_order_of_images_does_not_matter():
    pairs = label_maps(7, seed=2)
    one, other = filled(pairs), filled(pairs, np.random.default_rng(0).permutation(7).tolist())
    assert one.accuracy(50, 0) == other.accuracy(50, 0)
    assert one.mean_iou(50, 0) == other.mean_iou(50, 0)


def test_nothing_known_is_none():
    pixels = PooledPixels(3)
    assert set(pixels.accuracy(10, 0).values()) == {None}
    pixels.add("a", np.zeros((3, 4), np.int64))
    assert set(pixels.accuracy(10, 0).values()) == set(pixels.mean_iou(10, 0).values()) == {None}
    assert pixels.per_class() == [None] * 3
