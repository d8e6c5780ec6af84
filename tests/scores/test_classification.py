import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from xseg.classifier.metrics import average_precision
from xseg.errors import BadInput
from xseg.scores.classification import (
    ClassificationScore,
    decisions,
    in_top,
    log_probabilities,
    resampled_precision,
)

CLASSES = ("cat", "dog", "hat", "owl", "pig", "sea")


def several(seed, images=30, unknown=True):
    """Logits and labels of a sigmoid classifier; the last class is nowhere."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, 6)) < 0.3).astype(np.uint8)
    labels[:, 5] = 0
    labels[:5] = [[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0]]
    logits = rng.normal(size=labels.shape) * 2 + 2 * labels - 1
    logits[:, 5] = -3
    if unknown:
        labels[5:][rng.random((images - 5, 6)) < 0.1] = 255
    return logits.astype(np.float32), labels


def single(seed, images=40):
    """Logits and labels of a softmax classifier."""
    rng = np.random.default_rng(seed)
    answer = np.concatenate([np.arange(6), rng.integers(0, 6, images - 6)])
    logits = rng.normal(size=(images, 6)) * 1.5 + 2 * np.eye(6)[answer]
    return logits.astype(np.float32), np.eye(6, dtype=np.uint8)[answer], answer


def scored(logits, labels, activation, order=None, **options):
    score = ClassificationScore(CLASSES, activation, **options)
    for k in range(len(logits)) if order is None else order:
        score.add(f"{k:03d}", logits[k], labels[k])
    return score.result(replicates=40)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_a_sigmoid_classifier_is_scored_as_scikit_learn_does(seed):
    logits, labels = several(seed)
    found = scored(logits, labels, "sigmoid", threshold=0.4)
    probability = 1 / (1 + np.exp(-logits.astype(float)))
    known = labels != 255
    precision = [metrics.average_precision_score(labels[known[:, c], c], probability[known[:, c], c]) for c in range(5)]
    assert list(found["per_class_ap"].values())[:5] == pytest.approx(precision)
    assert (found["per_class_ap"]["sea"], found["map"]) == (None, pytest.approx(np.mean(precision)))
    true, told = labels[known] == 1, probability[known]
    calibration = found["calibration"]
    assert calibration["predictions"] == known.sum()
    assert calibration["brier"] == pytest.approx(metrics.brier_score_loss(true, told))
    assert calibration["nll"] == pytest.approx(metrics.log_loss(true, told))
    part = found["decisions"]
    for name in ("precision", "recall", "f1"):
        scorer = getattr(metrics, f"{name}_score")
        by_class = [
            scorer(labels[known[:, c], c], probability[known[:, c], c] > 0.4, zero_division=0) for c in range(5)
        ]
        assert part[f"macro_{name}"] == pytest.approx(np.mean(by_class))  # nothing of the class that is nowhere
        assert part[f"micro_{name}"] == pytest.approx(scorer(true, told > 0.4, zero_division=0))
    assert found["accuracy"] is None
    assert found["unknown_labels"] == (~known).sum()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_a_softmax_classifier_is_scored_as_scikit_learn_does(seed):
    logits, labels, answer = single(seed)
    found = scored(logits, labels, "softmax")
    probability = np.exp(logits.astype(float))
    probability /= probability.sum(axis=1, keepdims=True)
    for k, name in ((1, "top1"), (5, "top5")):
        assert found["accuracy"][name] == pytest.approx(metrics.top_k_accuracy_score(answer, probability, k=k))
    calibration = found["calibration"]
    assert calibration["nll"] == pytest.approx(metrics.log_loss(answer, probability))
    expected = np.mean(((probability - np.eye(6)[answer]) ** 2).sum(axis=1))
    assert calibration["brier"] == pytest.approx(expected)
    precision = metrics.average_precision_score(labels, probability, average=None)
    assert list(found["per_class_ap"].values()) == pytest.approx(precision.tolist())
    assert (found["decisions"], calibration["predictions"]) == (None, len(answer))
    confidence = sum(row["count"] * (row["confidence"] or 0) for row in calibration["reliability"]) / len(answer)
    assert confidence == pytest.approx(probability.max(axis=1).mean())
    frequency = sum(row["count"] * (row["frequency"] or 0) for row in calibration["reliability"]) / len(answer)
    assert frequency == pytest.approx(found["accuracy"]["top1"])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 4, 50]))
def test_a_resample_has_the_precision_that_scikit_learn_gives_with_weights(seed, levels):
    logits, labels = several(seed)
    scores = np.round(logits.astype(float) * levels) / levels
    weights = np.random.default_rng(seed).integers(0, 3, (4, len(labels))).astype(float)
    found = resampled_precision(scores, labels)(np.concatenate([np.ones((1, len(labels))), weights]))
    np.testing.assert_allclose(found[0, :6], average_precision(scores, labels), rtol=1e-12)
    for row, drawn in zip(found[1:], weights, strict=True):
        for c in range(6):
            known = (labels[:, c] != 255) & (drawn > 0)
            if not (labels[known, c] == 1).any():
                assert np.isnan(row[c])
                continue
            expected = metrics.average_precision_score(labels[known, c], scores[known, c], sample_weight=drawn[known])
            assert row[c] == pytest.approx(expected, abs=1e-12)
        assert row[6] == pytest.approx(np.nanmean(row[:6]))


def test_macro_counts_a_class_that_is_only_predicted_or_only_present_as_zero():
    probability = np.array([[0.9, 0.1, 0.9, 0.1], [0.9, 0.1, 0.1, 0.1]])
    labels = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], np.uint8)
    found = {name: one(np.ones((1, 2)))[0] for name, one in decisions(probability, labels, 0.5).items()}
    assert found["macro"] == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert found["micro"] == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    nothing = decisions(probability, labels, 0.95)["micro"](np.ones((1, 2)))
    assert nothing.tolist() == [[0, 0, 0]]
    exactly = decisions(np.full((1, 1), 0.5), np.ones((1, 1), np.uint8), 0.5)["micro"](np.ones((1, 1)))
    assert exactly.tolist() == [[0, 0, 0]]  # above, not at


def test_who_says_the_same_to_everything_gets_what_guessing_gets():
    answer = np.arange(6)
    for k in (1, 5, 6):
        assert in_top(np.zeros((6, 6)), answer, k) == pytest.approx(k / 6)
    half = np.array([[1.0, 1, 0, 0, 0, 0]])
    assert [in_top(half, np.array([c]), 1)[0] for c in (0, 1, 2)] == [0.5, 0.5, 0]
    assert [in_top(half, np.array([c]), 3)[0] for c in (0, 2)] == [1, 0.25]


def test_probabilities_near_one_keep_their_order():
    logits = np.array([[40.0], [50.0], [700.0]])
    assert (np.diff(log_probabilities(logits, "sigmoid")[:, 0]) > 0).all()
    assert np.exp(log_probabilities(np.array([[1000.0, 0, -1000]]), "softmax")).tolist() == [[1, 0, 0]]
    assert np.isfinite(log_probabilities(np.array([[-800.0, 800]]), "sigmoid")).all()


def test_only_images_with_one_class_have_an_accuracy():
    logits, labels, _ = single(1)
    alone = scored(logits, labels, "softmax")
    double = labels[:3].copy()
    double[:, :2] = 1
    more = scored(np.concatenate([logits, logits[:3]]), np.concatenate([labels, double]), "softmax")
    assert more["accuracy"]["images"] == alone["accuracy"]["images"] == len(labels)
    assert more["accuracy"]["top1"] == pytest.approx(alone["accuracy"]["top1"])
    assert more["calibration"]["ece"] == pytest.approx(alone["calibration"]["ece"])
    assert more["images"] == len(labels) + 3
    none = scored(logits[:3], double, "softmax")
    assert (none["accuracy"], none["calibration"]) == (None, None)
    # classes that the data set does not have
    open_ended = np.where(labels == 0, 255, labels).astype(np.uint8)
    assert scored(logits, open_ended, "softmax")["accuracy"] == alone["accuracy"]


def test_top_five_needs_more_than_five_classes():
    score = ClassificationScore(CLASSES[:5], "softmax")
    for k in range(5):
        score.add(str(k), np.arange(5.0), np.eye(5, dtype=np.uint8)[k])
    found = score.result(replicates=5)["accuracy"]
    assert (found["top1"], found["top5"], found["top5_interval"]) == (pytest.approx(0.2), None, None)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_the_result_is_json_whatever_the_order_of_the_images(activation):
    logits, labels = several(2) if activation == "sigmoid" else single(2)[:2]
    found = scored(logits, labels, activation)
    order = np.random.default_rng(0).permutation(len(logits))
    assert scored(logits, labels, activation, order) == found
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["map_interval"][0] < found["map"] < found["map_interval"][1]
    for name in ("ece", "adaptive_ece", "brier", "nll"):
        low, high = found["calibration"][f"{name}_interval"]
        assert low < high


def test_bad_input_is_refused():
    logits, labels = several(3)
    score = ClassificationScore(CLASSES, "sigmoid")
    with pytest.raises(BadInput, match="no image with a class"):
        score.result()
    score.add("a", logits[10], np.zeros(6, np.uint8))
    with pytest.raises(BadInput, match="no image with a class"):
        score.result()
    with pytest.raises(BadInput, match="a was scored twice"):
        score.add("a", logits[0], labels[0])
    with pytest.raises(BadInput, match="b: the classifier's logits are not finite"):
        score.add("b", np.full(6, np.nan), labels[0])
    with pytest.raises(ValueError, match="logits has shape"):
        score.add("c", logits[0, :3], labels[0])
