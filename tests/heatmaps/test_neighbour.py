"""Algorithm 2 of arXiv:2012.02166, taken step by step in NumPy's double precision."""

import numpy as np
import pytest
import torch

from tests.artifacts.build import ids
from tests.features.test_bank import write
from tests.heatmaps import nets
from xseg.errors import BadInput, UsageError
from xseg.features.bank import Bank
from xseg.features.latent import latent_images
from xseg.heatmaps import explain_images, methods
from xseg.heatmaps.neighbour import Contrast, shifted


class Opened(Bank):
    """A bank with a header as `features` writes it."""

    def __init__(self, name, parents=("made-by",), **params):
        super().__init__(name)
        self.header.params.update({"size": None, "layer": None} | params)
        object.__setattr__(self.header, "parents", tuple(_Parent(content) for content in parents))


class _Parent:
    kind = "classifier"

    def __init__(self, content):
        self.content = content


@pytest.fixture
def pictures():
    return [nets.picture(40, 48, seed=k) for k in range(8)]


@pytest.fixture
def classifier():
    # Latent vectors of a random net differ little, and a bias that decides all would hide them.
    made = nets.pooled()
    with torch.no_grad():
        made.net.fc.weight.mul_(3)
        made.net.fc.bias.mul_(0.05)
    return made


@pytest.fixture
def bank(tmp_path, classifier, pictures):
    return write(tmp_path / "bank.h5", latent_images(classifier, pictures, batch_size=1))


def algorithm_2(classifier, pictures, sign):
    state = nets.state_of(classifier)
    latent = latent_images(classifier, pictures, batch_size=1).astype(np.float64)
    chosen = []
    for k, own in enumerate(latent):
        distance = [np.inf if other == k else np.linalg.norm(own - latent[other]) for other in range(len(latent))]
        difference = own + sign * latent[int(np.argmin(distance))]
        chosen.append(int(np.argmax(state["fc.weight"] @ difference + state["fc.bias"])))
    return chosen


@pytest.mark.parametrize(("mode", "sign"), [("difference", -1), ("sum", 1)])
def test_the_class_is_the_one_that_algorithm_2_chooses(classifier, bank, pictures, mode, sign):
    contrast = Contrast(classifier, "made-by", Opened(bank), mode)
    found = contrast.of(pictures, ids(8), ["no file"] * len(pictures), batch_size=3)
    expected = algorithm_2(classifier, pictures, sign)
    assert [one.target for one in found] == expected
    assert len(set(expected)) > 1 or mode == "sum"
    assert [one.target for one in found] != algorithm_2(classifier, pictures, -sign)


def test_pictures_outside_the_bank_find_neighbours_in_it(classifier, bank):
    other = nets.picture(40, 48, seed=99)
    found = Contrast(classifier, "made-by", Opened(bank), "difference").of([other], ["new"], ["no file"], 1)[0]
    assert found.neighbour in ids(8)


def test_images_are_seen_as_large_as_those_of_the_bank(tmp_path, classifier, pictures):
    small = latent_images(classifier, pictures, size=32, batch_size=1)
    contrast = Contrast(classifier, "made-by", Opened(write(tmp_path / "b.h5", small), size=32), "difference")
    found = contrast.of(pictures[:1], ["new"], ["no file"], 1)[0]  # its own vector is a copy, so another is found
    assert found.neighbour != ids(8)[0]


def test_an_image_alone_in_its_bank_is_told_so(tmp_path, classifier, pictures):
    alone = write(tmp_path / "one.h5", latent_images(classifier, pictures[:1]))
    contrast = Contrast(classifier, "made-by", Opened(alone), "difference")
    with pytest.raises(BadInput, match=r"cat has no neighbour: .*one.h5 holds no other picture"):
        contrast.of(pictures[:1], ["cat"], ["no file"], 1)
    assert contrast.of(pictures[1:2], ["dog"], ["no file"], 1)[0].neighbour == ids(1)[0]


def test_a_bank_of_something_else_is_refused(tmp_path, classifier, bank):
    with pytest.raises(BadInput, match="another classifier"):
        Contrast(classifier, "other", Opened(bank), "difference")
    with pytest.raises(BadInput, match="those of layer features"):
        Contrast(classifier, "made-by", Opened(bank, layer="features"), "difference")
    wide = write(tmp_path / "wide.h5", np.ones((2, 7)))
    with pytest.raises(BadInput, match="vectors of 7 numbers, the head reads 6"):
        Contrast(classifier, "made-by", Opened(wide), "difference")
    classifier.net.fc.register_forward_hook(lambda module, inputs, output: output.tanh())
    with pytest.raises(UsageError, match="more comes after it"):
        Contrast(classifier, "made-by", Opened(bank), "difference")


@pytest.mark.parametrize("make", [nets.pooled, nets.convolutional], ids=["linear", "convolution"])
def test_a_shifted_classifier_answers_about_the_shifted_vector_and_is_put_back(make):
    classifier, images, shift = make(), nets.normalised(), torch.randn(6)
    before = classifier(images)
    moved = []

    def fail():
        with shifted(classifier, shift):
            moved.append(classifier(images))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    weight = classifier.head.weight.flatten(1)
    torch.testing.assert_close(moved[0] - before, (weight @ shift).expand_as(before))
    assert torch.equal(classifier(images), before)


def test_relevance_of_the_shifted_vector_starts_from_its_contributions():
    """With the zero rule and no share for biases the maps sum to the logit: that of S, not that of the image."""
    classifier = nets.pooled()
    picture, target = nets.picture(40, 48), 2
    plain = latent_images(classifier, [picture])[0].astype(np.float64)
    shift = torch.linspace(-0.3, 0.2, 6)
    method = methods.create("lrp", ["dense=zero", "bias=false"])
    with shifted(classifier, shift):
        maps = explain_images(classifier, method, [picture], [(target + 1,)], ["a"])[0].maps
    row = nets.state_of(classifier)["fc.weight"][target]
    logit = row @ (plain + shift.double().numpy()) + nets.state_of(classifier)["fc.bias"][target]
    assert maps.sum() == pytest.approx(logit, rel=1e-3)


@pytest.mark.parametrize("name", ["grad-cam", "agf", "rap", "lrp", "integrated-gradients"])
def test_methods_serve_a_shifted_classifier_and_see_the_shift(name):
    classifier, picture = nets.pooled(), nets.picture(40, 48)
    method = methods.create(name)
    plain = explain_images(classifier, method, [picture], [(1,)], ["a"])[0].maps
    with shifted(classifier, torch.linspace(-1, 1, 6)):
        assert method.serves(classifier) is None
        moved = explain_images(classifier, method, [picture], [(1,)], ["a"])[0].maps
    assert np.isfinite(moved).all()
    # gradients of a linear head do not change; what looks at its input does
    assert np.allclose(moved, plain) == (name in {"grad-cam", "integrated-gradients"})
