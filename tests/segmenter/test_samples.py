from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.segmenter.nets import mask, picture, record, records, samples
from xseg.datasets.transforms import Augmentation
from xseg.errors import BadInput
from xseg.segmenter.samples import NO_LABEL, Samples, confidence

AS_IT_IS = Augmentation(crop=(40, 36), long_side=None, flip=0.0, jitter=(0, 0, 0, 0))


def posteriors(index):
    """Pseudolabels with psa's two posteriors of the background and one class."""
    rng = np.random.default_rng(index)
    low, high = (rng.random((2, 40, 36)).astype(np.float16) for _ in range(2))
    ids = np.array([0, 1 + index % 2], np.int32)
    return record(index, labels=mask(index), low=low, high=high, **{"low/class_id": ids, "high/class_id": ids})


def test_image_and_labels_stay_pixel_on_pixel_and_unknown_ones_have_no_label():
    found = samples().load((1, 0, 0), AS_IT_IS, 0)
    np.testing.assert_array_equal(found["images"].numpy().transpose(1, 2, 0), picture(records()[1]))
    np.testing.assert_array_equal(found["labels"], np.where(mask(1) == 255, NO_LABEL, mask(1).astype(int)))


def test_after_any_draw_the_labels_lie_where_the_colours_are_and_padding_has_none():
    augmentation = Augmentation(crop=(48, 48), long_side=None, rescale=(0.5, 2.0), flip=0.5, jitter=(0, 0, 0, 0))
    made = samples()
    for epoch in range(8):
        found = made.load((1, epoch, 0), augmentation, 0)
        red = (found["images"][0] > 140).numpy()
        labels = found["labels"].numpy()
        top, left, bottom, right = found["valid"].tolist()
        inside = np.zeros((48, 48), bool)
        inside[top:bottom, left:right] = True
        assert (labels[~inside] == NO_LABEL).all()
        known = labels != NO_LABEL
        apart = ((labels == 2) != red)[known]
        assert apart.mean() < 0.06  # the edge, where one is interpolated and the other is not


def test_the_draws_depend_on_seed_image_and_epoch_alone():
    augmentation = replace(AS_IT_IS, rescale=(0.5, 2.0), flip=0.5)
    one = samples().load((2, 1, 0), augmentation, 5)
    assert all(torch.equal(one[name], samples(3).load((2, 1, 0), augmentation, 5)[name]) for name in one)
    assert not torch.equal(one["images"], samples().load((2, 2, 0), augmentation, 5)["images"])


def test_the_classes_of_each_image_are_counted_from_its_mask():
    np.testing.assert_array_equal(samples().present, [[1, 0], [0, 1], [1, 0], [0, 1]])


def test_confidence_is_the_posterior_that_the_label_came_from():
    arrays = posteriors(1).arrays
    found = confidence(arrays)
    for row, column in ((0, 0), (10, 10), (20, 5), (39, 35)):
        label = arrays["labels"][row, column]
        expected = {0: arrays["high"][0], 2: arrays["low"][1]}.get(label)
        assert found[row, column] == (0 if expected is None else np.float32(expected[row, column]))


def test_weights_move_with_their_labels():
    made = Samples([posteriors(0), posteriors(1)], picture, 2, weighted=True)
    found = made.load((1, 0, 0), AS_IT_IS, 0)
    torch.testing.assert_close(found["weights"], torch.from_numpy(confidence(posteriors(1).arrays)))
    flipped = made.load((1, 0, 0), replace(AS_IT_IS, flip=1.0), 0)
    torch.testing.assert_close(flipped["weights"], found["weights"].flip(1))
    assert torch.equal(flipped["labels"], found["labels"].flip(1))


def test_weights_without_posteriors_are_refused_with_the_command_that_makes_them():
    with pytest.raises(BadInput, match=r"im0 has no posteriors.*--posteriors"):
        samples(weighted=True)


def heatmaps(index, background=True):
    """Maps on no common scale: of the background, and of the class that the mask of `index` has."""
    ids = np.array([0, 1 + index % 2] if background else [1 + index % 2], np.int32)
    maps = np.random.default_rng(index).random((len(ids), 40, 36)).astype(np.float32)
    return record(index, maps=maps, **{"maps/class_id": ids, "maps/scale": np.ones(len(ids), np.float32)})


def test_maps_weigh_a_label_by_its_share():
    given = [heatmaps(index) for index in (3, 1, 0, 2)]  # in any order, with others between
    made = samples(weighted=True, heatmaps=[*given, heatmaps(9)])
    for index in range(4):
        found = made.load((index, 0, 0), AS_IT_IS, 0)["weights"].numpy()
        maps = heatmaps(index).arrays["maps"].astype(np.float64)
        rows = {0: 0, 1 + index % 2: 1}
        for row, column in ((0, 0), (10, 10), (20, 5), (29, 19), (39, 35)):
            label = mask(index)[row, column]
            share = maps[rows[label], row, column] / maps[:, row, column].sum() if label in rows else 0.0
            assert found[row, column] == pytest.approx(share, abs=0.5 / 255 + 1e-6)


def test_certain_maps_have_weight_one_and_labels_without_a_map_none():
    certain = record(0, maps=np.stack([mask(0) == 0, mask(0) == 1]).astype(np.float32),
                     **{"maps/class_id": np.array([0, 1], np.int32)})  # fmt: skip
    alone = record(1, maps=np.ones((1, 40, 36), np.float32), **{"maps/class_id": np.array([0], np.int32)})
    made = samples(2, weighted=True, heatmaps=[certain, alone])
    assert (made.load((0, 0, 0), AS_IT_IS, 0)["weights"].numpy() == (mask(0) != 255)).all()
    assert (made.load((1, 0, 0), AS_IT_IS, 0)["weights"].numpy() == (mask(1) == 0)).all()


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match=r"no heatmaps of im2 \(2 of 4 images have none\)"):
        samples(weighted=True, heatmaps=[heatmaps(0), heatmaps(1)])
    with pytest.raises(BadInput, match=r"im0 has no background.*crf HEATMAPS --heatmaps"):
        samples(weighted=True, heatmaps=[heatmaps(0, background=False)])
    small = replace(heatmaps(0), size=(20, 18))
    with pytest.raises(BadInput, match=r"im0 has maps of \(20, 18\) pixels, labels of \(40, 36\)"):
        samples(weighted=True, heatmaps=[small])


def test_masks_without_a_label_teach_nothing():
    with pytest.raises(BadInput, match="no pixel has a label"):
        Samples([record(0, masks=np.full((40, 36), 255, np.uint8))], picture, 2)
