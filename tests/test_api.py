"""The steps on tensors, as a user of the library calls them."""

import pytest
import torch

import xseg
from tests.classifier.nets import MODEL
from xseg.classifier.model import create
from xseg.errors import UsageError


@pytest.fixture
def classifier():
    return create(MODEL, ("a", "b", "c"), weights="none").eval()


def test_explain_answers_for_each_image_its_own_classes(classifier):
    images = torch.randn(3, 3, 24, 32)
    maps = xseg.explain(classifier, images, [[1, 3], [], [2]])
    assert [len(found) for found in maps] == [2, 0, 1]
    alone = xseg.explain(classifier, images[2:], [[2]])[0]
    torch.testing.assert_close(maps[2], alone)


def test_explain_without_any_class_runs_nothing(classifier):
    assert [len(found) for found in xseg.explain(classifier, torch.randn(2, 3, 24, 24), [[], []])] == [0, 0]


def test_explain_refuses_what_does_not_fit(classifier):
    with pytest.raises(ValueError, match="targets of 1 images, needed 2"):
        xseg.explain(classifier, torch.randn(2, 3, 24, 24), [[1]])
    with pytest.raises(UsageError, match="unknown explanation method"):
        xseg.explain(classifier, torch.randn(1, 3, 24, 24), [[1]], "cma")


def test_crf_gives_posteriors_and_keeps_what_is_certain():
    image = torch.zeros(16, 20, 3, dtype=torch.uint8)
    image[:, 10:] = 200
    scores = torch.full((2, 16, 20), 0.02)
    scores[0, :, :10] = scores[1, :, 10:] = 0.98
    posteriors = xseg.crf(scores, image, backend="lattice")
    torch.testing.assert_close(posteriors.sum(0), torch.ones(16, 20), atol=1e-5, rtol=0)
    assert torch.equal(posteriors.argmax(0), scores.argmax(0))


def test_a_walk_stays_inside_equal_features():
    features = torch.zeros(4, 4, 6)
    features[:, :, 3:] = 50
    maps = torch.zeros(1, 32, 48)
    maps[0, :8, :8] = 1
    walked = xseg.random_walk(maps, features, steps=64)
    assert walked[0, :, 32:].max() < 1e-4
    assert walked[0, 20:, :16].min() > 0.01
