import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.scores import oracle_maps as oracle
from xseg.errors import BadInput
from xseg.scores.class_specificity import SpecificityScore, specificity

CLASSES = ("cat", "dog", "hat")


def picture(seed, classes=2, size=(9, 11), signed=False):
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.choice([1, 2, 3], classes, replace=False))
    truth = rng.choice([0, *ids, 255], size=size).astype(np.uint8)
    truth.flat[: classes + 2] = [0, *ids, 255]
    maps = np.stack([rng.random(size) + (truth == name) for name in ids]) - (0.8 if signed else 0)
    return maps.astype(np.float32), ids, truth


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 3]), st.booleans())
def test_the_measures_equal_loops_over_pixels_and_scipy(seed, classes, signed):
    maps, ids, truth = picture(seed, classes, signed=signed)
    found = specificity(maps, ids, truth)
    pairs = oracle.specificity(maps, ids, truth)
    own, other = np.array(list(pairs.values())).T
    assert found.pairs == len(pairs) == classes * (classes - 1)
    flat = {int(name): one.ravel().astype(float) for name, one in zip(ids, maps, strict=True)}
    expected = {
        "pearson": np.mean([stats.pearsonr(flat[i], flat[j]).statistic for i, j in pairs]),
        "spearman": np.mean([stats.spearmanr(flat[i], flat[j]).statistic for i, j in pairs]),
        "own_share": own.mean(),
        "other_share": other.mean(),
        "share_difference": (own - other).mean(),
        "own_fraction": (own / (own + other)).mean(),
        "own_above_other": (own > other).mean(),
    }
    assert found.measures == pytest.approx(expected, abs=1e-12)
    assert (found.empty_maps, found.undefined_correlations, found.undefined_fractions) == (0, 0, 0)
    areas = oracle.specificity(np.ones_like(maps), ids, truth)
    own, other = np.array(list(areas.values())).T
    floor = {"own_share": own.mean(), "other_share": other.mean()}
    assert {name: found.floor[name] for name in floor} == pytest.approx(floor)


def test_maps_equal_to_their_masks_are_perfect():
    _, ids, truth = picture(0)
    found = specificity(np.stack([truth == name for name in ids]).astype(np.float32), ids, truth).measures
    assert (found["own_share"], found["other_share"], found["own_fraction"]) == (1, 0, 1)
    assert found["share_difference"] == found["own_above_other"] == 1
    assert found["pearson"] < 0


def test_equal_maps_correlate_fully_and_cannot_tell_the_classes_apart():
    maps, ids, truth = picture(1)
    found = specificity(np.stack([maps[0], maps[0]]), ids, truth)
    assert [found.measures[name] for name in ("pearson", "spearman")] == pytest.approx([1, 1])
    # What one map gains in its own mask, the other, being the same, loses there.
    assert found.measures["share_difference"] == pytest.approx(0, abs=1e-15)
    assert found.measures["own_above_other"] == 0.5
    swapped = specificity(maps[::-1], ids, truth).measures
    straight = specificity(maps, ids, truth).measures
    assert swapped["share_difference"] == pytest.approx(-straight["share_difference"])
    assert swapped["own_share"] == pytest.approx(straight["other_share"])


def test_scale_negative_values_and_unknown_pixels_do_not_count():
    maps, ids, truth = picture(2, signed=True)
    plain = specificity(maps, ids, truth)
    scaled = specificity(maps * np.array([4, 0.25], np.float32)[:, None, None], ids, truth)
    assert scaled.measures == pytest.approx(plain.measures)
    altered = maps.copy()
    altered[:, truth == 255] = 100
    altered[altered < 0] = -50
    shares = ("own_share", "other_share", "share_difference", "own_fraction", "own_above_other")
    for name in shares:
        assert specificity(altered, ids, truth).measures[name] == pytest.approx(plain.measures[name])


def test_empty_and_constant_maps_are_counted_and_left_out():
    maps, ids, truth = picture(3)
    maps[1] = 0
    found = specificity(maps, ids, truth)
    assert (found.empty_maps, found.undefined_correlations, found.undefined_fractions) == (1, 2, 0)
    assert found.measures["pearson"] is None
    alone = oracle.specificity(maps, ids, truth)[int(ids[0]), int(ids[1])]
    assert (found.measures["own_share"], found.measures["other_share"]) == pytest.approx(alone)
    maps[1, truth == 0] = 1
    found = specificity(maps, ids, truth)
    assert (found.empty_maps, found.undefined_correlations, found.undefined_fractions) == (0, 0, 1)
    flat = specificity(np.ones_like(maps), ids, truth)
    assert (flat.empty_maps, flat.undefined_correlations) == (0, 2)
    assert {name: flat.measures[name] for name in flat.floor} == flat.floor


def test_only_classes_with_map_and_mask_count():
    maps, ids, truth = picture(4, classes=3)
    truth[truth == ids[1]] = 0
    found = specificity(maps, ids, truth)
    assert found.pairs == 2
    assert found.measures == specificity(maps[[0, 2]], ids[[0, 2]], truth).measures
    truth[truth == ids[0]] = 0
    assert specificity(maps, ids, truth) is None


def scored(pictures):
    score = SpecificityScore(CLASSES)
    for name, (maps, ids, truth) in pictures.items():
        score.add(maps, ids, truth, image=name)
    return score


def test_the_result_is_json_with_means_over_images_whatever_their_order():
    pictures = {f"{k}": picture(k, 2 + k % 2) for k in range(6)}
    blank, ids, truth = picture(9, 1)
    result = scored({**pictures, "single": (blank, ids, truth)}).result(replicates=50)
    per_image = [specificity(*one).measures["own_share"] for one in pictures.values()]
    assert result["own_share"] == pytest.approx(np.mean(per_image))
    low, high = result["own_share_interval"]
    assert low < result["own_share"] < high
    assert (result["images"], result["images_with_fewer_classes"], result["pairs"]) == (6, 1, 3 * 2 + 3 * 6)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    backwards = dict(reversed({**pictures, "single": (blank, ids, truth)}.items()))
    assert scored(backwards).result(replicates=50) == result


def test_a_background_map_is_left_out_and_maps_of_absent_classes_are_counted():
    maps, ids, truth = picture(5)
    absent = ({1, 2, 3} - set(ids.tolist())).pop()
    more = np.concatenate([np.ones_like(maps[:1]), maps, maps[:1]])
    result = scored({"a": (more, np.array([0, *ids, absent]), truth)}).result(replicates=10)
    assert result["maps_of_absent_classes"] == 1
    plain = scored({"a": (maps, ids, truth)}).result(replicates=10)
    assert result == {**plain, "maps_of_absent_classes": 1}


def test_bad_input_is_refused_and_leaves_the_score_as_it_was():
    maps, ids, truth = picture(6)
    score = scored({"a": (maps, ids, truth)})
    before = score.result(replicates=10)
    broken = maps.copy()
    broken[0, 0, 0] = np.nan
    for bad, message in (
        ((maps[:, :-1], ids, truth), "another size"),
        ((broken, ids, truth), "not finite"),
        ((maps, np.array([-1, 2]), truth), "class-agnostic"),
        ((maps, ids, np.full_like(truth, 9)), "the ground truth holds the label 9"),
        ((maps, ids, truth), "a was scored twice"),
    ):
        with pytest.raises(BadInput, match=message):
            score.add(*bad, image="a" if "twice" in message else "b")
    assert score.result(replicates=10) == before


def test_without_an_image_of_two_classes_there_is_nothing_to_say():
    with pytest.raises(BadInput, match="no image has maps of two classes that are both in its mask"):
        scored({"a": picture(7, 1)}).result()
