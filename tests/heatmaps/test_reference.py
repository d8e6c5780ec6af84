import numpy as np
import pytest
import torch

from tests.heatmaps.nets import ask, normalised, picture, pooled
from xseg.errors import UsageError
from xseg.heatmaps import explain_images, methods


def noise(pairs, ids, seed=0, settings=()):
    return methods.create("random", settings)(pooled(), ask(normalised(len(ids)), pairs, ids=ids, seed=seed)).numpy()


def test_random_maps_depend_on_seed_image_and_class_and_on_nothing_else():
    alone = noise([(0, 2)], ("b",))
    together = noise([(1, 2), (0, 2), (1, 0)], ("a", "b"))
    np.testing.assert_array_equal(noise([(1, 2)], ("a", "b")), alone)
    np.testing.assert_array_equal(together[0], alone[0])
    others = [together[1], together[2], noise([(0, 2)], ("b",), seed=1)[0]]
    assert all(np.abs(other - alone[0]).max() > 0.1 for other in others)


def test_random_maps_are_uniform_on_the_grid_asked_for():
    maps = noise([(0, k) for k in range(4)], ("a",), settings=["grid=40"])
    assert maps.shape == (4, 40, 40)
    assert maps.min() >= 0
    assert maps.max() < 1
    assert abs(maps.mean() - 0.5) < 0.02
    assert abs(maps.var() - 1 / 12) < 0.005


def test_random_maps_are_not_made_symmetric_by_flipping():
    (once,) = explain_images(pooled(), methods.create("random"), [picture(40, 50)], [(1,)], ["a"])
    (more,) = explain_images(
        pooled(), methods.create("random"), [picture(40, 50)], [(1,)], ["a"], scales=(1, 0.5), flip=True
    )
    np.testing.assert_array_equal(once.maps, more.maps)
    assert np.abs(once.maps - once.maps[..., ::-1]).max() > 0.1


@pytest.mark.parametrize("shape", [(31, 40), (40, 31), (8, 8), (33, 33)])
def test_centre_prior_peaks_at_the_centre_and_is_symmetric(shape):
    (maps,) = methods.create("centre-prior")(pooled(), ask(normalised(1, *shape), [(0, 0)])).numpy()
    assert maps.shape == shape
    np.testing.assert_allclose(maps, maps[::-1, ::-1], atol=1e-6)
    peak = maps[(shape[0] - 1) // 2 : shape[0] // 2 + 1, (shape[1] - 1) // 2 : shape[1] // 2 + 1]
    np.testing.assert_allclose(peak, maps.max(), atol=1e-6)
    assert (maps == maps.max()).sum() <= peak.size
    if shape[0] % 2 and shape[1] % 2:
        assert maps.max() == 1


def test_centre_prior_falls_to_exp_of_minus_a_half_one_sigma_away():
    (maps,) = methods.create("centre-prior", ["sigma=0.2"])(pooled(), ask(normalised(1, 5, 15), [(0, 0)])).numpy()
    assert maps[3, 7] == pytest.approx(np.exp(-0.5))
    assert maps[2, 10] == pytest.approx(np.exp(-0.5))


def test_reference_maps_never_run_the_classifier():
    classifier = pooled()
    classifier.net.fc.register_forward_hook(lambda *_: pytest.fail("the classifier was run"))
    for name in ("random", "centre-prior"):
        assert methods.create(name).serves(classifier) is None
        (found,) = explain_images(classifier, methods.create(name), [picture(20, 30)], [(1, 4)], ["a"])
        assert found.maps.shape == (2, 20, 30)


@pytest.mark.parametrize(("name", "setting"), [("random", "grid=0"), ("centre-prior", "sigma=0")])
def test_impossible_parameters_are_refused(name, setting):
    with pytest.raises(UsageError, match=setting.split("=")[0]):
        methods.create(name, [setting])


def test_reference_maps_work_on_the_device_of_the_query():
    maps = methods.create("random")(pooled(), ask(normalised(1), [(0, 0)]))
    assert maps.device == torch.device("cpu")
