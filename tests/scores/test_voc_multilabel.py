import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from tests.scores import oracle_foreground as oracle
from xseg.errors import BadInput
from xseg.scores.voc_multilabel import MultilabelScore, argmax_labels, channels, soft_average_precision

CLASSES = tuple("abcdefg")


def drawn(seed, count=2, *, levels=None, signed=False, size=(9, 8)):
    rng = np.random.default_rng(seed)
    shape = (count, *size)
    maps = (
        rng.random(shape) - 0.5 * signed if levels is None else rng.integers(-levels * signed, levels, shape) / levels
    )
    class_id = np.sort(rng.choice(len(CLASSES), count, replace=False)) + 1
    truth = rng.choice([0, 1, 2, 3, 255, *class_id], size).astype(np.uint8)
    return maps.astype(np.float32), class_id, truth


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 7), st.booleans(), st.sampled_from([None, 2, 9]))
def test_it_equals_the_published_script_as_intended(seed, count, signed, levels):
    maps, class_id, truth = drawn(seed, count, levels=levels, signed=signed)
    prediction, ap = oracle.multilabel(maps, class_id, truth, len(CLASSES), positive_only=not signed)
    values = channels(maps, signed)
    assert soft_average_precision(values, class_id, truth, len(CLASSES)) == pytest.approx(ap, abs=1e-9)
    found = argmax_labels(values, class_id)
    # a value at the mean itself may fall either way
    clear = (abs(maps - maps.mean(axis=(1, 2), keepdims=True)) > 1e-6).all(axis=0) | signed
    assert np.array_equal(found[clear], prediction[clear])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 7))
def test_groups_equal_ranking_every_channel_of_every_pixel(seed, count):
    maps, class_id, truth = drawn(seed, count, levels=3)
    values = channels(maps, signed=True)
    # the same softmax written out densely, ties and all
    raised = np.full((len(CLASSES) + 1, *truth.shape), np.exp(-0.1))
    raised[0] = 1
    raised[class_id] = np.exp(values)
    total = np.exp(values).sum(axis=0) + 1 + (len(CLASSES) - count) * np.exp(-0.1)
    one_hot = np.arange(len(CLASSES) + 1)[:, None, None] == truth
    known = np.broadcast_to(truth != 255, raised.shape)
    expected = average_precision_score(one_hot[known], (raised / total).astype(np.float32)[known])
    assert soft_average_precision(values, class_id, truth, len(CLASSES)) == pytest.approx(expected, abs=1e-9)


def test_whole_maps_of_twenty_classes_equal_scikit_learn():
    rng = np.random.default_rng(0)
    maps, truth = (
        rng.random((2, 96, 96)).astype(np.float32),
        rng.choice([0, 0, 3, 7, 20, 255], (96, 96)).astype(np.uint8),
    )
    _, ap = oracle.multilabel(maps, [3, 7], truth, 20, positive_only=True)
    assert soft_average_precision(channels(maps, False), np.array([3, 7]), truth, 20) == pytest.approx(ap, abs=1e-9)


def test_channels_are_shifted_scaled_and_cut():
    maps = np.array([[[0.0, 1.0], [2.0, 5.0]], [[-4.0, -1.0], [-1.0, -2.0]], [[3.0, 3.0], [3.0, 3.0]]], np.float32)
    unsigned = channels(maps, signed=False)
    assert unsigned[0].tolist() == [[0, 0], [0, 1]]
    assert unsigned[1].tolist() == [[0, 1], [1, 0]]
    assert not unsigned[2].any()
    signed = channels(maps, signed=True)
    assert signed[0].tolist() == [[0, 0.2], [0.4, 1]]
    assert not signed[1].any()  # -4 / -1 would be the highest of all
    assert (signed[2] == 1).all()
    assert channels(maps[:0], signed=True).shape == (0, 2, 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.25, 2.0, 1024.0]), st.booleans())
def test_a_positive_factor_changes_nothing(seed, factor, signed):
    maps, _, _ = drawn(seed, signed=signed)
    np.testing.assert_array_equal(channels(maps * np.float32(factor), signed), channels(maps, signed))


def test_the_background_wins_ties_and_then_the_lowest_class():
    values = np.array([[[0, 0.5, 0.2]], [[0, 0.5, 0.9]]])
    assert argmax_labels(values, np.array([2, 5])).tolist() == [[0, 2, 5]]
    assert argmax_labels(values[:0], np.zeros(0, int)).tolist() == [[0, 0, 0]]
    assert argmax_labels(values, np.array([2, 300]), np.uint16).tolist() == [[0, 2, 300]]


def test_images_without_a_prediction_are_all_background_as_the_floor_is():
    score = MultilabelScore(CLASSES, signed=True)
    for seed in range(4):
        _, _, truth = drawn(seed)
        score.add(np.zeros((0, 9, 8), np.float32), np.zeros(0, int), truth, image=str(seed))
    found = score.result(replicates=20)
    assert found["images_without_prediction"] == 4
    assert found["maps"] == 0
    for name in ("ap", "pixel_accuracy"):
        assert found[name] == pytest.approx(found["all_background"][name], abs=1e-12)
    known = np.concatenate([drawn(seed)[2].ravel() for seed in range(4)])
    assert found["pixel_accuracy"] == pytest.approx((known == 0).sum() / (known != 255).sum())


def test_accuracy_is_pooled_and_ap_a_mean_whatever_the_order():
    images = [drawn(seed, 1 + seed % 3, size=(6 + seed, 7), signed=True) for seed in range(7)]
    results = []
    for order in (range(7), [3, 1, 6, 0, 2, 5, 4]):
        score = MultilabelScore(CLASSES, signed=True)
        for k in order:
            maps, class_id, truth = images[k]
            turned = slice(None, None, -1)  # ids need not come in order
            score.add(maps[turned], class_id[turned], truth, image=str(k))
        results.append(score.result(replicates=30))
    assert results[0] == results[1]
    scripts = [oracle.multilabel(*image, len(CLASSES), positive_only=False) for image in images]
    assert results[0]["ap"] == pytest.approx(np.mean([one[1] for one in scripts]))
    right = sum(((one[0] == image[2]) & (image[2] != 255)).sum() for one, image in zip(scripts, images, strict=True))
    assert results[0]["pixel_accuracy"] == pytest.approx(right / sum((image[2] != 255).sum() for image in images))


def test_a_background_map_is_left_out_and_unknown_pixels_give_no_number():
    maps, class_id, truth = drawn(1)
    one, other = MultilabelScore(CLASSES, signed=False), MultilabelScore(CLASSES, signed=False)
    one.add(maps, class_id, truth, image="a")
    other.add(np.concatenate([maps[:1], maps]), np.append(0, class_id), truth, image="a")
    assert one.result() == other.result()
    unknown = MultilabelScore(CLASSES, signed=False)
    unknown.add(maps, class_id, np.full_like(truth, 255), image="a")
    assert unknown.result()["ap"] is unknown.result()["pixel_accuracy"] is None


def test_more_than_254_classes():
    many = tuple(map(str, range(300)))
    score = MultilabelScore(many, signed=True)
    truth = np.array([[0, 300, 65535], [255, 300, 0]], np.uint16)
    score.add((truth == 300)[None].astype(np.float32), np.array([300]), truth, image="a")
    assert score.result()["pixel_accuracy"] == 0.8


def test_bad_inputs():
    maps, class_id, truth = drawn(0)
    score = MultilabelScore(CLASSES, signed=False)
    with pytest.raises(BadInput, match="no image was scored"):
        score.result()
    with pytest.raises(BadInput, match="another size"):
        score.add(maps[:, 1:], class_id, truth, image="a")
    with pytest.raises(BadInput, match="class id 8"):
        score.add(maps, np.array([1, 8]), truth, image="a")
    with pytest.raises(BadInput, match="class-agnostic"):
        score.add(maps, np.array([-1, 1]), truth, image="a")
    with pytest.raises(BadInput, match="ground truth holds the label 77"):
        score.add(maps, class_id, np.full_like(truth, 77), image="a")
    with pytest.raises(BadInput, match="not finite"):
        score.add(maps * np.float32(np.nan), class_id, truth, image="a")
    score.add(maps, class_id, truth, image="a")
    with pytest.raises(BadInput, match="scored twice"):
        score.add(maps, class_id, truth, image="a")
