import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scores import oracle_foreground as oracle
from xseg.errors import BadInput
from xseg.scores.imagenet_seg import ForegroundScore, cut, foreground_truth, one_map, rule_of

ONE = np.array([1])


def drawn(seed, *, levels=None, height=9, width=8):
    """A map and a truth with unknown pixels."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(height, width)) if levels is None else rng.integers(0, levels, (height, width)) / levels
    truth = rng.choice([0, 1, 255], (height, width), p=[0.5, 0.3, 0.2]).astype(np.uint8)
    return values.astype(np.float32), truth


def published(truth):
    return np.where(truth == 255, -1, truth.astype(int))


def test_the_presets_have_the_rules_of_their_scripts():
    assert rule_of("agf", signed=True) == "positive"
    assert (
        rule_of("agf", signed=False)
        == rule_of("chefer", signed=True)
        == rule_of("chefer", signed=False)
        == "above-mean"
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([None, 2, 5]))
def test_agf_equals_its_script(seed, signed, levels):
    values, truth = drawn(seed, levels=levels)
    correct, known, ap = oracle.agf(values.astype(np.float64), published(truth), positive_only=not signed)
    found = cut(values, truth, rule_of("agf", signed))
    assert (found.confusion.trace(), found.confusion.sum()) == (correct, known)
    assert found.measures["ap_hard"] == pytest.approx(ap, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 5, 1000]))
def test_chefer_equals_its_script(seed, levels):
    values, truth = drawn(seed, levels=levels)
    prediction, ap, f1 = oracle.chefer(values, published(truth))
    found = cut(values, truth, rule_of("chefer", signed=False))
    assert found.constant == (values.max() == values.min())
    assert found.measures["ap_soft"] == pytest.approx(ap, abs=1e-9)
    assert (found.measures["f1"] or 0) == pytest.approx(f1, abs=1e-9)
    known = truth != 255
    counted = np.zeros((2, 2), int)
    np.add.at(counted, (truth[known], prediction[known]), 1)
    assert np.array_equal(found.confusion[:, :2], counted)


def test_the_set_is_pooled_for_accuracy_and_miou_and_averaged_for_the_rest():
    pairs = [drawn(seed, levels=7, height=5 + seed) for seed in range(8)]
    score = ForegroundScore("above-mean")
    for k, (values, truth) in enumerate(pairs):
        score.add(values[None], ONE, truth, image=str(k))
    found = score.result(replicates=50)
    scripts = [oracle.chefer(values, published(truth)) for values, truth in pairs]
    truths = [published(truth) for _, truth in pairs]
    assert found["miou"] == pytest.approx(oracle.pooled_miou([one[0] for one in scripts], truths))
    assert found["ap_soft"] == pytest.approx(np.mean([one[1] for one in scripts]))
    assert found["f1"] == pytest.approx(np.mean([one[2] for one in scripts]))
    hard = [oracle.agf(values.astype(np.float64), published(truth), positive_only=True) for values, truth in pairs]
    assert found["pixel_accuracy"] == pytest.approx(sum(one[0] for one in hard) / sum(one[1] for one in hard))
    assert found["ap_hard"] == pytest.approx(np.mean([one[2] for one in hard]))
    assert np.mean(list(found["iou"].values())) == pytest.approx(found["miou"])
    for name in ("pixel_accuracy", "ap_hard", "ap_soft", "miou", "f1"):
        low, high = found[f"{name}_interval"]
        assert low <= found[name] <= high


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.25, 1, 64]), st.integers(-8, 8))
def test_scale_and_shift_change_nothing_where_the_mean_is_the_threshold(seed, scale, shift):
    values, truth = drawn(seed, levels=64)  # sixty-fourths: exact in float32 wherever they are moved to
    moved = values * np.float32(scale) + np.float32(shift)
    assert cut(moved, truth, "above-mean").measures == cut(values, truth, "above-mean").measures


def test_the_perfect_map_and_its_opposite():
    truth = np.array([[0, 1, 1], [0, 255, 1]], np.uint8)
    perfect = cut((truth == 1).astype(np.float32), truth, "above-mean")
    assert perfect.measures == {"ap_hard": 1, "ap_soft": 1, "f1": 1}
    worst = cut((truth == 0).astype(np.float32), truth, "above-mean")
    assert worst.measures["f1"] == worst.confusion.trace() == 0
    assert worst.measures["ap_hard"] == 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("rule", ["positive", "above-mean"])
def test_a_map_that_is_not_finite_is_zero_everywhere_and_counted(bad, rule):
    values, truth = drawn(3)
    spoilt = values.copy()
    spoilt[0, 0] = bad
    score = ForegroundScore(rule)
    score.add(spoilt[None], ONE, truth, image="a")
    score.add(np.zeros_like(spoilt)[None], ONE, truth, image="b")
    score.add(np.zeros((0, *truth.shape)), ONE[:0], truth, image="c")
    found = score.result(replicates=0)
    assert (found["maps_not_finite"], found["constant_maps"], found["images_without_map"]) == (1, 1, 1)
    known = truth[truth != 255]
    assert found["pixel_accuracy"] == pytest.approx((known == 0).mean())
    assert found["ap_soft"] == 0.5


def test_truth_without_any_known_or_foreground_pixel():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    unknown = cut(values, np.full((2, 3), 255, np.uint8), "above-mean")
    assert set(unknown.measures.values()) == {None}
    nothing = cut(-values, np.zeros((2, 3), np.uint8), "positive")
    assert (nothing.measures["ap_hard"], nothing.measures["f1"]) == (1, None)
    assert cut(values, np.zeros((2, 3), np.uint8), "positive").measures["f1"] == 0


def test_the_truth_of_one_class_or_of_any():
    mask = np.array([[0, 1, 2, 255]], np.uint8)
    assert foreground_truth(mask, None, 255).tolist() == [[0, 1, 1, 255]]
    assert foreground_truth(mask, 2, 255).tolist() == [[0, 0, 1, 255]]
    wide = np.array([[0, 300, 255, 65535]], np.uint16)
    assert foreground_truth(wide, None, 65535).tolist() == [[0, 1, 1, 255]]
    assert foreground_truth(wide, 300, 65535).dtype == np.uint8


def test_which_map_is_scored():
    maps = np.arange(3, dtype=np.float32)[:, None, None] + np.zeros((3, 2, 2), np.float32)

    def chosen(ids, label):
        values, other = one_map(maps[: len(ids)], np.array(ids, np.int64), label)
        return None if values is None else int(values[0, 0]), other

    assert chosen([4], None) == chosen([4], 4) == (0, False)
    assert chosen([4], 5) == (0, True)
    assert chosen([-1], 5) == chosen([-1], None) == (0, False)
    assert chosen([0, 4], None) == chosen([0, 4], 4) == (1, False)
    assert chosen([1, 2, 3], 2) == (1, False)
    assert chosen([], 3) == chosen([0], None) == (None, False)
    with pytest.raises(BadInput, match="3 maps, and none of them of the image's class"):
        chosen([1, 2, 3], 7)
    with pytest.raises(BadInput, match="2 maps, and the image's class is not known"):
        chosen([1, 2], None)


def test_bad_inputs():
    values, truth = drawn(0)
    with pytest.raises(BadInput, match="another size"):
        cut(values[1:], truth, "positive")
    with pytest.raises(BadInput, match="ground truth holds the label 2"):
        cut(values, np.minimum(truth, 2), "positive")
    score = ForegroundScore("positive")
    with pytest.raises(BadInput, match="no image was scored"):
        score.result()
    score.add(values[None], ONE, truth, image="a")
    with pytest.raises(BadInput, match="scored twice"):
        score.add(values[None], ONE, truth, image="a")


def test_maps_of_another_class_are_counted_in_numbers_that_json_knows():
    values, truth = drawn(3)
    score = ForegroundScore("positive")
    score.add(values[None], np.array([4], np.int32), truth, label=2, image="a")
    found = score.result(replicates=0)
    assert json.loads(json.dumps(found))["maps_of_another_class"] == 1
