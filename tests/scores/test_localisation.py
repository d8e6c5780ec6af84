import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scores import oracle_localisation as oracle
from xseg.errors import BadInput
from xseg.scores.localisation import (
    SWEEP,
    ReferenceScore,
    TruthScore,
    locate_in_reference,
    locate_in_truth,
    near,
)


def picture(seed, ids=(1, 3), size=(9, 11), signed=False):
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, *ids, 255], size=size).astype(np.uint8)
    truth.flat[: len(ids) + 2] = [0, *ids, 255]
    maps = rng.integers(0, 6, (len(ids), *size)) / 5 - (0.5 if signed else 0)
    return maps.astype(np.float32), np.array(ids), truth


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0, 1, 2, 3, 15]))
def test_energy_and_pointing_equal_loops_over_pixels(seed, signed, tolerance):
    maps, ids, truth = picture(seed, signed=signed)
    found = locate_in_truth(maps, ids, truth, 3, tolerance)
    known = truth != 255
    masks = [truth == name for name in ids]
    flat = np.ones(truth.shape)
    expected = {
        "energy": oracle.mean([oracle.share(one, mask, known) for one, mask in zip(maps, masks, strict=True)]),
        "pointing": oracle.mean(
            [oracle.hit(one, mask, known, tolerance) for one, mask in zip(maps, masks, strict=True)]
        ),
    }
    assert found.measures == pytest.approx(expected, abs=1e-12)
    floor = {
        "energy": oracle.mean([oracle.share(flat, mask, known) for mask in masks]),
        "pointing": oracle.mean([oracle.hit(flat, mask, known, tolerance) for mask in masks]),
    }
    assert found.floor == pytest.approx(floor, abs=1e-12)
    assert found.counts == {"maps": 2, "empty_maps": 0, "maps_of_absent_classes": 0}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_the_score_against_a_reference_equals_loops_over_pixels(seed, signed):
    rng = np.random.default_rng(seed)
    maps, ids, _ = picture(seed, signed=signed)
    reference = rng.random((2, 9, 11)).astype(np.float32) - (0.4 if signed else 0)
    found = locate_in_reference(maps, ids, reference[::-1], ids[::-1], 3, SWEEP)
    for at, threshold in enumerate(SWEEP):
        masks = [one / one.max() > np.float32(threshold) for one in reference]
        scores = [oracle.share(one, mask) for one, mask in zip(maps, masks, strict=True)]
        assert found.score[at] == pytest.approx(np.mean(scores), abs=1e-12)
        assert found.floor[at] == pytest.approx(np.mean([mask.mean() for mask in masks]), abs=1e-12)


def test_a_uniform_map_gets_its_floor_and_the_mask_itself_gets_everything():
    _, ids, truth = picture(0)
    for tolerance in (0, 2):
        flat = locate_in_truth(np.full((2, *truth.shape), 0.5, np.float32), ids, truth, 3, tolerance)
        assert flat.measures == pytest.approx(flat.floor, abs=1e-15)
    masks = np.stack([truth == name for name in ids]).astype(np.float32)
    assert locate_in_truth(masks, ids, truth, 3).measures == {"energy": 1, "pointing": 1}
    other = locate_in_truth(masks[::-1], ids, truth, 3)
    assert other.measures == {"energy": 0, "pointing": 0}
    reference = np.random.default_rng(1).random((2, *truth.shape)).astype(np.float32)
    flat = locate_in_reference(np.ones_like(reference), ids, reference, ids, 3)
    np.testing.assert_allclose(flat.score, flat.floor, rtol=1e-15)
    assert (np.diff(flat.floor) < 0).all()
    at_half = (reference / reference.max(axis=(1, 2), keepdims=True) > 0.5).astype(np.float32)
    assert locate_in_reference(at_half, ids, reference, ids, 3, (0.5,)).score == 1


def test_scale_negative_values_and_unknown_pixels_do_not_count():
    maps, ids, truth = picture(2, signed=True)
    plain = locate_in_truth(maps, ids, truth, 3, 2)
    altered = maps * np.array([4, 0.25], np.float32)[:, None, None]
    altered[altered < 0] = -50
    reference = np.random.default_rng(3).random(maps.shape).astype(np.float32) - 0.2
    against = locate_in_reference(maps, ids, reference, ids, 3)
    scaled = locate_in_reference(altered, ids, reference * 8, ids, 3)
    np.testing.assert_allclose(scaled.score, against.score, rtol=1e-12)
    altered[:, truth == 255] = 100
    assert locate_in_truth(altered, ids, truth, 3, 2).measures == pytest.approx(plain.measures)


@pytest.mark.parametrize("tolerance", [0, 1, 2, 4, 15])
def test_near_is_a_disc_about_every_pixel(tolerance):
    mask = np.random.default_rng(tolerance).random((13, 21)) < 0.02
    mask[4, 6] = True
    points = np.argwhere(mask)
    expected = [[min(math.dist((y, x), point) for point in points) <= tolerance for x in range(21)] for y in range(13)]
    np.testing.assert_array_equal(near(mask, tolerance), expected)


def test_what_is_left_out_is_counted():
    maps, ids, truth = picture(4)
    empty = maps.copy()
    empty[0] = -1
    empty[0, truth == 255] = 1  # positive, but only where nothing is known
    found = locate_in_truth(empty, ids, truth, 3)
    alone = locate_in_truth(maps[1:], ids[1:], truth, 3)
    assert found.counts == {"maps": 1, "empty_maps": 1, "maps_of_absent_classes": 0}
    assert (found.measures, found.floor) == (alone.measures, alone.floor)
    background = np.concatenate([maps, maps[:2]]), np.array([*ids, 0, 2])
    found = locate_in_truth(*background, truth, 3)
    assert found.counts == {"maps": 2, "empty_maps": 0, "maps_of_absent_classes": 1}
    assert found.measures == locate_in_truth(maps, ids, truth, 3).measures
    reference = np.stack([maps[0], np.zeros_like(maps[0])])
    counts = locate_in_reference(*background, reference, np.array([1, 3]), 3).counts
    assert counts == {"maps": 1, "empty_maps": 0, "maps_without_reference": 1, "empty_references": 1}
    nothing = locate_in_reference(np.zeros_like(maps), ids, maps, ids, 3)
    assert nothing.counts["empty_maps"] == 2
    assert np.isnan(nothing.score).all()
    assert locate_in_truth(maps[:0], ids[:0], truth, 3).measures == {"energy": None, "pointing": None}


def truth_score(pictures):
    score = TruthScore()
    for name, one in pictures.items():
        score.add(name, locate_in_truth(*one, 3))
    return score


def reference_score(pictures, threshold):
    score = ReferenceScore(threshold)
    for name, (maps, ids, _) in pictures.items():
        score.add(name, locate_in_reference(maps, ids, maps[::-1], ids, 3, score.thresholds))
    return score


def test_results_are_json_with_means_over_images_whatever_their_order():
    pictures = {f"{k}": picture(k, (1, 2, 3)[: 1 + k % 3]) for k in range(6)}
    backwards = dict(reversed(pictures.items()))
    result = truth_score(pictures).result(replicates=50)
    per_image = [locate_in_truth(*one, 3).measures["energy"] for one in pictures.values()]
    assert result["energy"] == pytest.approx(np.mean(per_image))
    assert result["energy_interval"][0] < result["energy"] < result["energy_interval"][1]
    assert (result["images"], result["maps"]) == (6, 12)
    assert truth_score(backwards).result(replicates=50) == result
    against = reference_score(pictures, 0.25).result(replicates=50)
    assert [point["threshold"] for point in against["sweep"]] == sorted([0.25, *SWEEP])
    assert against["sweep"][2]["score"] == against["score"]
    assert against["threshold"] == 0.25
    assert reference_score(backwards, 0.25).result(replicates=50) == against
    without = reference_score(pictures, 0.5).result(replicates=50)["sweep"]
    assert [point["score"] for point in without] == pytest.approx(
        [point["score"] for point in against["sweep"] if point["threshold"] != 0.25]
    )
    for one in (result, against):
        assert json.loads(json.dumps(one, allow_nan=False)) == one


def test_bad_input_is_refused():
    maps, ids, truth = picture(6)
    broken = maps.copy()
    broken[0, 0, 0] = np.inf
    for bad, message in (
        ((maps[:, :-1], ids, truth), "another size"),
        ((broken, ids, truth), "not finite"),
        ((maps, np.array([-1, 2]), truth), "class-agnostic"),
        ((maps, ids, np.full_like(truth, 9)), "the ground truth holds the label 9"),
    ):
        with pytest.raises(BadInput, match=message):
            locate_in_truth(*bad, 3)
    with pytest.raises(BadInput, match="not finite"):
        locate_in_reference(maps, ids, broken, ids, 3)
    with pytest.raises(BadInput, match="another size"):
        locate_in_reference(maps, ids, maps[:, :-1], ids, 3)
    score = truth_score({"a": (maps, ids, truth)})
    with pytest.raises(BadInput, match="a was scored twice"):
        score.add("a", locate_in_truth(maps, ids, truth, 3))
    with pytest.raises(BadInput, match=r"against the ground truth \(1 without positive values, 0 of classes"):
        truth_score({"a": (maps[:1] * 0, ids[:1], truth)}).result()
    with pytest.raises(BadInput, match="against the reference"):
        reference_score({}, 0.5).result()
