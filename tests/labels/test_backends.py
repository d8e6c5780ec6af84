import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image

from tests.labels.pictures import picture, soft_scores
from xseg.errors import Unavailable, UsageError
from xseg.labels.backends import BACKENDS, resolve_backend
from xseg.labels.meanfield import Kernels, mean_field, mean_field_batch

KERNELS = Kernels()
OURS = [name for name in ("lattice", "numba") if name in BACKENDS.names()]


@pytest.fixture(scope="module")
def peer():
    pytest.importorskip("pydensecrf", reason="pydensecrf is not installed")
    return resolve_backend("pydensecrf")


@pytest.fixture(scope="module", params=OURS)
def ours(request):
    if request.param == "numba":
        pytest.importorskip("numba", reason="numba is not installed")
    return resolve_backend(request.param)


def agree(found, expected, axis=1):
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert torch.equal(found.argmax(axis), expected.argmax(axis))


@pytest.mark.parametrize("noise", [0, 20, 40, 60])
@pytest.mark.parametrize("size", [(60, 80), (61, 83)])
def test_posteriors_equal_those_of_pydensecrf(ours, peer, noise, size):
    for labels in (2, 3, 5):
        image, scores = picture(*size, noise=noise, seed=labels), soft_scores(2, labels, *size, seed=labels)
        agree(mean_field(scores, image, KERNELS, ours), mean_field(scores, image, KERNELS, peer))


@pytest.mark.parametrize("terms", [1, 2, 3])
@pytest.mark.parametrize("labels", [4, 5, 8, 9, 21])
def test_any_number_of_terms_and_labels_equals_pydensecrf(ours, peer, terms, labels):
    image, scores = picture(23, 31, noise=20), soft_scores(terms, labels, 23, 31)
    agree(mean_field(scores, image, KERNELS, ours), mean_field(scores, image, KERNELS, peer))


def test_a_plain_picture_equals_pydensecrf_whose_sums_are_long(ours, peer):
    image = torch.full((240, 320, 3), 250, dtype=torch.uint8)
    image[60:120, 80:200] = 30
    scores = soft_scores(1, 3, 240, 320)
    agree(mean_field(scores, image, KERNELS, ours), mean_field(scores, image, KERNELS, peer))


def test_scores_far_apart_neither_overflow_nor_lose_a_label(ours):
    image, scores = picture(20, 30), soft_scores(1, 5, 20, 30)
    strong = Kernels(gaussian_compat=300.0, bilateral_compat=500.0)
    found = mean_field(scores, image, strong, ours)
    torch.testing.assert_close(found.sum(1), torch.ones(1, 20, 30))
    assert (found.max(1).values > 0.99).float().mean() > 0.9


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (2, 3), (3, 5)])
def test_tiny_images_equal_those_of_pydensecrf(ours, peer, size):
    image, scores = picture(*size), soft_scores(1, 3, *size)
    agree(mean_field(scores, image, KERNELS, ours), mean_field(scores, image, KERNELS, peer))


def test_other_kernels_equal_those_of_pydensecrf(ours, peer):
    kernels = Kernels(2.5, 4.0, 50.0, 5.0, 7.0, 3)
    image, scores = picture(45, 38, noise=20), soft_scores(1, 3, 45, 38)
    agree(mean_field(scores, image, kernels, ours), mean_field(scores, image, kernels, peer))


def test_a_dark_corner_meets_the_points_that_fill_up_the_last_block_of_four(ours, peer):
    image, scores = picture(31, 33, noise=20) // 12, soft_scores(1, 3, 31, 33)
    agree(mean_field(scores, image, KERNELS, ours), mean_field(scores, image, KERNELS, peer))


@pytest.mark.parametrize("name", ["small", "mid"])
@pytest.mark.parametrize("alpha", [4, 32])
def test_posteriors_equal_published_ones(ours, shared, name, alpha):
    from xseg.labels.confident import with_background

    stored = np.load(shared("reference/fixtures/psa_crf.npz"))
    image = torch.from_numpy(stored[f"{name}/image"])
    scores = with_background(torch.from_numpy(stored[f"{name}/cams"]), alpha)
    found = mean_field(scores[None], image, KERNELS, ours)[0]
    agree(found, torch.from_numpy(stored[f"{name}/posterior_alpha{alpha}"]), axis=0)


@pytest.mark.data
@pytest.mark.parametrize("index", [0, 1])
def test_photographs_equal_pydensecrf(ours, peer, shared, index):
    path = sorted(shared("data/voc-subset/JPEGImages").glob("2007_*.jpg"))[index]
    with Image.open(path) as opened:
        image = torch.from_numpy(np.array(opened.convert("RGB")))
    scores = soft_scores(1, 3, *image.shape[:2], seed=index)
    agree(mean_field(scores, image, KERNELS, ours), mean_field(scores, image, KERNELS, peer))


def test_a_batch_equals_its_images_alone_on_every_backend(ours):
    images = torch.stack([picture(21, 23, noise=noise) for noise in (0, 40)])
    scores = torch.stack([soft_scores(2, 3, 21, 23, seed=seed) for seed in (1, 2)])
    together = mean_field_batch(scores, images, KERNELS, ours)
    alone = torch.stack([mean_field(s, i, KERNELS, ours) for s, i in zip(scores, images, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_arguments_are_left_as_they_were(ours):
    image, scores = picture(12, 14), soft_scores(1, 3, 12, 14)
    before = image.clone(), scores.clone()
    mean_field(scores, image, KERNELS, ours)
    assert torch.equal(image, before[0])
    assert torch.equal(scores, before[1])


def test_auto_needs_no_pydensecrf_and_takes_the_lattice_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert type(resolve_backend("auto")) is BACKENDS.get("lattice")
    monkeypatch.undo()
    assert type(resolve_backend("auto", torch.device("cuda"))) is BACKENDS.get("lattice")
    assert resolve_backend().parallel == "threads"


@pytest.mark.parametrize("name", [name for name in BACKENDS.names() if name != "lattice"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(Unavailable, match=rf"--backend {name}.*pip install"):
        resolve_backend(name)


def test_an_unknown_backend_is_a_usage_error():
    with pytest.raises(UsageError, match="unknown CRF backend 'latice'; did you mean lattice"):
        resolve_backend("latice")


def test_every_backend_states_how_it_parallelises():
    assert {name: cls.parallel for name, cls in BACKENDS}["pydensecrf"] == "processes"
    assert {cls.parallel for _, cls in BACKENDS} <= {"threads", "processes"}
