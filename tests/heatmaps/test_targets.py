from dataclasses import replace

import numpy as np
import pytest

from tests.heatmaps.nets import pooled
from xseg.errors import BadInput, UsageError
from xseg.heatmaps import parse_targets, resolve_targets

LABELS = np.array([0, 1, 255, 1], np.uint8)
PROBABILITIES = np.array([0.6, 0.1, 0.7, 0.5], np.float32)


def classifier(activation="sigmoid"):
    made = pooled()
    made.config = replace(made.config, activation=activation)
    return made


@pytest.mark.parametrize(
    ("spec", "activation", "has_labels", "expected"),
    [
        (None, "sigmoid", True, (2, 4)),
        (None, "softmax", True, (2, 4)),
        (None, "sigmoid", False, (1, 3)),
        (None, "softmax", False, (3,)),
        ("labels", "sigmoid", True, (2, 4)),
        ("predicted", "sigmoid", True, (1, 3)),
        ("predicted", "softmax", True, (3,)),
        ("top1", "sigmoid", True, (3,)),
        ("labels,top1", "sigmoid", True, (2, 3, 4)),
        ("top1,labels", "softmax", True, (2, 3, 4)),
        ("labels,predicted", "sigmoid", True, (1, 2, 3, 4)),
        ("labels,predicted", "softmax", True, (2, 3, 4)),
        ("all", "softmax", False, (1, 2, 3, 4)),
        ("boat, cat,boat", "sigmoid", False, (4, 1)),
    ],
)
def test_rules(spec, activation, has_labels, expected):
    labels = LABELS if has_labels else None
    assert resolve_targets(spec, classifier(activation), has_labels, labels, PROBABILITIES, 0.5) == expected


def test_the_threshold_is_exclusive_and_may_leave_nothing():
    assert resolve_targets("predicted", classifier(), False, None, PROBABILITIES, 0.7) == ()
    assert resolve_targets("predicted", classifier(), False, None, PROBABILITIES, 0.0) == (1, 2, 3, 4)


def test_only_predictions_need_the_classifier():
    needs = {
        spec: parse_targets(spec, classifier(), dataset_has_labels=True).needs_probabilities
        for spec in (None, "labels", "all", "dog", "predicted", "top1", "labels,top1")
    }
    assert [spec for spec, asked in needs.items() if asked] == ["predicted", "top1", "labels,top1"]
    assert parse_targets("labels,top1", classifier(), dataset_has_labels=True).needs_labels
    assert parse_targets(None, classifier(), dataset_has_labels=False).needs_probabilities


def test_a_class_name_with_a_comma_is_found():
    made = classifier()
    made.config = replace(made.config, classes=("cat", "great grey owl, Strix", "horse", "boat"))
    assert resolve_targets("great grey owl, Strix", made, False, None, None) == (2,)


def test_an_unknown_name_lists_near_misses():
    with pytest.raises(UsageError) as found:
        resolve_targets("cat,hores", classifier(), False, None, None)
    assert "'hores'" in found.value.problem
    assert "horse" in found.value.hint
    with pytest.raises(UsageError) as found:
        resolve_targets("lables", classifier(), True, LABELS, None)
    assert "labels" in found.value.hint
    with pytest.raises(UsageError) as found:
        resolve_targets("zzz", classifier(), False, None, None)
    assert "cat, dog, horse, boat" in found.value.hint


@pytest.mark.parametrize("spec", ["", " , "])
def test_an_empty_list_is_refused(spec):
    with pytest.raises(UsageError, match="empty"):
        resolve_targets(spec, classifier(), False, None, None)


def test_labels_have_to_be_there_and_to_fit():
    with pytest.raises(UsageError, match="no image-level labels"):
        resolve_targets("labels", classifier(), False, None, None)
    with pytest.raises(UsageError, match="--targets labels,top1: the dataset has no image-level labels"):
        resolve_targets("labels,top1", classifier(), False, None, PROBABILITIES)
    with pytest.raises(BadInput, match="about 3 classes, the classifier knows 4"):
        resolve_targets("labels", classifier(), True, LABELS[:3], None)
    with pytest.raises(ValueError, match="no labels"):
        resolve_targets("labels", classifier(), True, None, None)


def test_a_threshold_that_is_no_probability_is_refused():
    with pytest.raises(UsageError, match="--threshold"):
        resolve_targets("predicted", classifier(), False, None, PROBABILITIES, 1.5)
