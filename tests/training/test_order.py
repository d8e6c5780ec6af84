import numpy as np
import pytest

from xseg.training.order import SampleOrder, balanced_weights


def test_every_epoch_shows_every_sample_once_whatever_the_batch_size():
    for size in (1, 3, 7, 25):
        order = SampleOrder(10, seed=4)
        flat = [sample for step in range(100 // size) for sample in order.batch(step, size)]
        for epoch in range(100 // size * size // 10):
            assert sorted(flat[epoch * 10 : epoch * 10 + 10]) == [(k, epoch, 0) for k in range(10)]


def test_a_batch_does_not_depend_on_what_was_asked_before():
    forwards = SampleOrder(10, seed=4)
    expected = [forwards.batch(step, 4) for step in range(20)]
    for step in (19, 3, 11):
        assert SampleOrder(10, seed=4).batch(step, 4) == expected[step]


def test_epochs_and_seeds_differ():
    first = [s for s, *_ in SampleOrder(50, 0).batch(0, 50)]
    assert first != [s for s, *_ in SampleOrder(50, 0).batch(1, 50)]
    assert first != [s for s, *_ in SampleOrder(50, 1).batch(0, 50)]


def test_balanced_sampling_draws_in_proportion_and_counts_repeats():
    weights = np.array([1.0, 3.0, 0.5])
    order = SampleOrder(3, 0, weights)
    drawn = [sample for step in range(4000) for sample in order.batch(step, 3)]
    counts = np.bincount([index for index, *_ in drawn], minlength=3) / len(drawn)
    np.testing.assert_allclose(counts, weights / weights.sum(), atol=0.02)
    assert len(set(drawn)) == len(drawn)


def test_images_of_rare_classes_weigh_more():
    labels = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0], [255, 1, 0]], np.uint8)
    np.testing.assert_allclose(balanced_weights(labels), [1 / 3, 1 / 3, 1 / 2, 1 / 3, 1 / 2])
    np.testing.assert_allclose(balanced_weights(np.zeros((2, 3), np.uint8)), [1, 1])


def test_balanced_weights_even_out_single_labels():
    labels = np.eye(2, dtype=np.uint8)[[0] * 9 + [1]]
    weights = balanced_weights(labels)
    assert weights[:9].sum() == pytest.approx(weights[9])


def test_no_samples_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        SampleOrder(0, 0)
