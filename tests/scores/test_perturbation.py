import json

import numpy as np
import pytest
import torch

from tests.scores import oracle_perturbation as oracle
from xseg.errors import BadInput
from xseg.scores.bootstrap import draws
from xseg.scores.perturbation import (
    CURVES,
    CUTS,
    PerturbationScore,
    Readings,
    area,
    can_judge,
    curve_named,
    hits,
    pixels_of,
    ranks,
    tie_fraction,
)

HITS = (0.80314, 0.78108, 0.76364, 0.73926, 0.70386, 0.6493, 0.57224, 0.4558, 0.29334, 0.10428)


def test_the_area_is_the_published_one():
    shares = curve_named("positive").shares
    assert shares == (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    assert area(HITS, shares) == pytest.approx(0.541223, abs=1e-9)
    assert area(HITS, shares) == pytest.approx(oracle.published_area(HITS), abs=1e-12)
    assert area(HITS[1:], shares[1:]) == pytest.approx(0.462, abs=1e-4)


def test_ranks_hide_the_pixels_that_the_published_code_takes_by_topk():
    relevance = np.random.default_rng(0).standard_normal((13, 17)).astype(np.float32)
    white = np.ones((3, 13, 17), np.float32)
    for name, first in (("positive", "most"), ("negative", "least")):
        curve = curve_named(name)
        order = ranks(relevance, curve.least_first)
        assert sorted(order.ravel().tolist()) == list(range(13 * 17))
        for point, share in enumerate(CUTS, 1):
            kept = oracle.perturbed(torch.from_numpy(white), relevance, share, first)[0].numpy()
            assert (curve.hidden(order, point) == (kept == 0)).all()


def test_numbers_of_pixels_are_rounded_down_as_published():
    assert [pixels_of(share, 224 * 224) for share in CUTS] == [int(224 * 224 * share) for share in oracle.SHARES]
    assert [pixels_of(k / 224, 224 * 224) for k in range(225)] == [224 * k for k in range(225)]
    assert pixels_of(0.29, 100) == 29  # 100 * 0.29 is 28.999999999999996


def test_positive_order_is_the_negative_order_of_the_opposite_map_ties_included():
    relevance = np.random.default_rng(1).integers(-2, 3, (9, 8)).astype(np.float32)
    assert (ranks(relevance) == ranks(-relevance, least_first=True)).all()
    constant = np.zeros((3, 4), np.float32)
    for least_first in (False, True):
        assert (ranks(constant, least_first).ravel() == np.arange(12)).all()  # ties go in the order of reading


def test_the_tie_fraction_counts_pixels_that_a_cut_takes_apart():
    assert tie_fraction(np.full((8, 8), 0.3, np.float32)) == 1
    assert tie_fraction(np.arange(100, dtype=np.float32).reshape(10, 10)) == 0
    tenths = np.repeat(np.arange(10), 10).astype(np.float32).reshape(10, 10)
    assert tie_fraction(tenths) == 0  # many ties, but every cut falls between two values
    half = np.zeros((10, 10), np.float32)
    half[:3] = np.arange(1, 31).reshape(3, 10)  # seventy zeros: the cuts at 0.4 .. 0.9 go through them, not that at 0.3
    assert tie_fraction(half) == pytest.approx(6 * 0.7 / 9)


@pytest.mark.parametrize("name", CURVES)
def test_every_curve_starts_at_one_end_and_goes_one_way(name):
    curve = curve_named(name, "blur", 10)
    order = ranks(np.random.default_rng(0).random((10, 10)).astype(np.float32), curve.least_first)
    hidden = [int(curve.hidden(order, k).sum()) for k in range(len(curve.shares))]
    assert hidden == sorted(hidden, reverse=curve.inserts)
    assert [n == 0 for n in hidden] == [curve.is_intact(k) for k in range(len(hidden))]
    assert [n == 100 for n in hidden] == [curve.is_gone(k) for k in range(len(hidden))]
    assert curve.fill == {"positive": "blur", "negative": "blur", "insertion": "window", "deletion": "mean"}.get(
        name, "road"
    )


def test_right_is_the_top_class_of_a_softmax_and_the_own_class_of_sigmoids():
    logits = np.array([[2, 1, -1], [0, 1, -1], [-3, -2, -1]], np.float32)
    wanted = np.array([True, False, True])
    assert hits(logits, "softmax", wanted, 1).tolist() == [True, False, True]
    assert hits(logits, "softmax", wanted, 2).tolist() == [True, False, True]  # whichever class the map is about
    assert hits(logits, "sigmoid", wanted, 1).tolist() == [True, False, False]
    assert hits(logits, "sigmoid", wanted, 2).tolist() == [False, False, True]  # absent, and no longer found
    assert hits(logits, "sigmoid", wanted, -1).tolist() == [True, False, True]


def test_labels_may_be_known_in_part():
    def judged(labels, activation, *class_id):
        return can_judge(np.array(labels, np.uint8), activation, np.array(class_id, np.int32))

    assert judged([0, 1, 255], "softmax", 3)  # one class of many, as in a data set of some of them
    assert not judged([0, 0, 255], "softmax", 1)
    assert judged([0, 0, 0], "softmax", 1)
    assert judged([0, 1, 255], "sigmoid", 1, 2)
    assert not judged([0, 1, 255], "sigmoid", 1, 3)
    assert not judged([255, 255, 255], "softmax", -1)


def readings(rng, curves, ties=0.0):
    right = {curve.name: (rng.random(len(curve.shares)) < 0.6).astype(float) for curve in curves}
    return Readings(right, {curve.name: rng.random(len(curve.shares)) for curve in curves}, ties)


def filled(seed, names, curves, maps=2):
    rng, score, kept = np.random.default_rng(seed), PerturbationScore(curves), {}
    for name in names:
        kept[name] = [readings(rng, curves, 0.5) for _ in range(maps)]
        score.add(name, kept[name])
    return score, kept


def test_curves_are_means_over_maps_and_then_over_images():
    curves = [curve_named(name, steps=4) for name in CURVES]
    score, kept = filled(0, "abc", curves)
    score.add("d", [readings(np.random.default_rng(9), curves, 0.5)])
    kept["d"] = [readings(np.random.default_rng(9), curves, 0.5)]
    found = score.result(50, 0)
    for curve in curves:
        kind = "probability" if curve.name in ("insertion", "deletion") else "hits"
        means = [np.mean([getattr(one, kind)[curve.name] for one in some], axis=0) for some in kept.values()]
        assert found["curves"][curve.name] == pytest.approx(np.mean(means, axis=0).tolist())
        expected = np.trapezoid(np.mean(means, axis=0), curve.shares)
        assert found[f"auc_{curve.name}"] == pytest.approx(expected)  # the area of the mean is the mean of the areas
        assert found[f"auc_normalised_{curve.name}"] == pytest.approx(expected / curve.shares[-1])
    assert set(found["probability_curves"]) == {"positive", "negative", "road-morf", "road-lerf"}
    apart = [
        np.mean([(one.probability["road-lerf"][1:] - one.probability["road-morf"][1:]).mean() / 2 for one in some])
        for some in kept.values()
    ]
    assert found["road_difference"] == pytest.approx(np.mean(apart))
    assert found["tie_fraction"] == 0.5
    assert (len(score), score.maps) == (4, 7)
    json.dumps(found, allow_nan=False)


def test_runs_are_compared_on_common_images_drawn_together():
    curves = [curve_named("positive"), curve_named("negative")]
    first, kept = filled(0, "abcdefgh", curves, 1)
    second, others = filled(1, "cdefghij", curves, 1)
    found = second.compared_with(first, 200, 3)
    areas = [
        np.array([oracle.published_area(one[name][0].hits["positive"]) for name in "cdefgh"]) for one in (kept, others)
    ]
    difference = areas[1] - areas[0]
    assert found["images"] == 6
    assert found["auc_positive"] == pytest.approx(difference.mean())
    resampled = [(weights @ difference) / 6 for chunk in draws(6, 200, 3) for weights in chunk]
    assert found["auc_positive_interval"] == pytest.approx(np.percentile(resampled, [2.5, 97.5]).tolist())
    nothing = first.compared_with(first, 20, 0)
    assert (nothing["auc_positive"], nothing["auc_positive_interval"]) == (0, [0, 0])
    strangers = filled(2, "xyz", curves)[0].compared_with(first, 20, 0)
    assert (strangers["images"], strangers["auc_negative"]) == (0, None)


def test_what_cannot_be_collected_is_refused():
    curves = [curve_named("positive")]
    score, _ = filled(0, "ab", curves)
    with pytest.raises(BadInput, match="scored twice"):
        score.add("a", [readings(np.random.default_rng(0), curves)])
    with pytest.raises(ValueError, match="needed the same"):
        score.compared_with(filled(0, "ab", [curve_named("negative")])[0], 10, 0)
