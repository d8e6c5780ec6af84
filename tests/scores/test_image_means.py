import numpy as np
import pytest

from xseg.errors import BadInput
from xseg.scores.bootstrap import draws
from xseg.scores.image_means import ImageMeans


def filled(values, order=None):
    means = ImageMeans(("a", "b"))
    for k in order if order is not None else range(len(values)):
        means.add(f"{k:03}", {"a": values[k][0], "b": values[k][1]})
    return means


def test_means_and_intervals_equal_resampling_image_by_image():
    rng = np.random.default_rng(0)
    values = [(float(x), None if k % 3 == 0 else float(y)) for k, (x, y) in enumerate(rng.random((12, 2)))]
    found = filled(values).summary(200, seed=4)
    for column, name in enumerate(("a", "b")):
        held = [row[column] for row in values if row[column] is not None]
        assert found[name] == pytest.approx(np.mean(held))
        resampled = []
        for weights in np.concatenate(list(draws(12, 200, 4))):
            drawn = [row[column] for row, times in zip(values, weights, strict=True) for _ in range(int(times))]
            resampled.append(np.mean([value for value in drawn if value is not None]))
        assert found[f"{name}_interval"] == pytest.approx(np.percentile(resampled, [2.5, 97.5]).tolist())


def test_the_order_of_images_does_not_matter():
    values = np.random.default_rng(1).random((9, 2)).tolist()
    shuffled = filled(values, np.random.default_rng(2).permutation(9).tolist())
    assert filled(values).summary(100, 0) == shuffled.summary(100, 0)


def test_numbers_that_no_image_has_are_none():
    found = filled([(1.0, None), (2.0, None)]).summary(50, 0)
    assert found["a"] == 1.5
    assert found["b"] is found["b_interval"] is None
    assert set(ImageMeans(("a",)).summary(10, 0).values()) == {None}


def test_an_image_twice_is_refused():
    means = filled([(1.0, 2.0)])
    with pytest.raises(BadInput, match="000 was scored twice"):
        means.add("000", {"a": 1.0, "b": 1.0})
