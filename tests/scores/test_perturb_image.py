import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from tests.classifier.nets import CLASSES, tiny
from tests.scores import oracle_perturbation as oracle
from xseg.classifier.config import ClassifierConfig
from xseg.classifier.model import Classifier
from xseg.errors import Unavailable
from xseg.heatmaps.baselines import baseline_images
from xseg.scores import perturb_image
from xseg.scores.perturb_image import Perturbation, Subject, frame_map, window_blur
from xseg.scores.perturbation import CURVES, area, curve_named
from xseg.scores.road import impute

SIDE = 32


class LeftHalf(nn.Module):
    """Two logits: the mean of the picture's left half minus a quarter, and 0."""

    def __init__(self):
        super().__init__()
        self.quarter = nn.Parameter(torch.tensor(0.25))
        self.asked = 0

    def forward(self, images):
        self.asked += len(images)
        half = images[..., : images.shape[-1] // 2].mean((1, 2, 3)) - self.quarter
        return torch.stack([half, torch.zeros_like(half)], 1)


def left_half(activation="softmax"):
    config = ClassifierConfig("half", ("left", "none"), activation, (SIDE, SIDE), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Classifier(config, LeftHalf()).eval()


def network(activation="softmax", seed=0):
    torch.manual_seed(seed)
    mean = (0.4, 0.5, 0.3)
    config = ClassifierConfig("tiny", CLASSES, activation, (SIDE, SIDE), mean, (0.2, 0.3, 0.25), layer="1", head="5")
    net = tiny(3)
    net[-1].weight.data.mul_(40)
    return Classifier(config, net).eval()


def subject(seed=0, maps=1, labels=(1, 0, 0), size=(SIDE, SIDE), grid=None):
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    image = np.kron(blocks, np.ones((size[0] // 4, size[1] // 4, 1), np.uint8))
    relevance = rng.standard_normal((maps, *(grid or size))).astype(np.float32)
    known = None if labels is None else np.array(labels, np.uint8)
    return Subject((f"image{seed}", "0"), image, relevance, np.arange(1, maps + 1, dtype=np.int32), known)


def white(relevance, labels=(1, 0), class_id=1):
    image = np.full((SIDE, SIDE, 3), 255, np.uint8)
    return Subject(("white", ""), image, relevance[None], np.array([class_id], np.int32), np.array(labels, np.uint8))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_classifier_that_looks_at_the_left_half_is_lost_when_that_is_known_to_be(activation):
    relevance = np.zeros((SIDE, SIDE), np.float32)
    relevance[:, : SIDE // 2] = 1
    relevance += np.linspace(0, 0.1, SIDE, dtype=np.float32)[:, None]  # an order among the pixels of a half
    curves = [curve_named("positive"), curve_named("negative")]
    (found,) = Perturbation(left_half(activation), curves, (SIDE, SIDE)).readings(white(relevance), "labels")
    # 1 - 2 s of the half is left of s removed pixels; it must stay above a quarter: s < 0.375, or 0.875 the other way
    assert found.hits["positive"].tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert found.hits["negative"].tolist() == [1, 1, 1, 1, 1, 1, 1, 1, 1, 0]
    assert area(found.hits["positive"], curves[0].shares) == pytest.approx(0.35)
    assert area(found.hits["negative"], curves[0].shares) == pytest.approx(0.85)
    left = [1 - 2 * int(SIDE * SIDE * s) / SIDE**2 for s in (0, 0.1, 0.2)]
    logit = np.array(left) - 0.25
    assert found.probability["positive"][:3] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_curves_equal_those_of_the_published_scripts(seed):
    classifier, one = network(), subject(seed, maps=2)
    curves = [curve_named("positive"), curve_named("negative")]
    found = Perturbation(classifier, curves, (SIDE, SIDE), 4).readings(one, "labels")
    picture = torch.from_numpy(one.image).permute(2, 0, 1) / 255

    def model(pictures):
        with torch.no_grad():
            return classifier(classifier.normalise(pictures))

    for relevance, reading in zip(one.maps, found, strict=True):
        for name, first in (("positive", "most"), ("negative", "least")):
            assert reading.hits[name].tolist() == oracle.correctness(model, picture, relevance, first, 0)
    for share, chance in zip((0.1, 0.5, 0.9), found[1].probability["negative"][[1, 5, 9]], strict=True):
        copy = oracle.perturbed(picture, one.maps[1], share, "least")
        assert chance == pytest.approx(float(model(copy[None]).softmax(1)[0, 1]), abs=1e-6)


@pytest.mark.parametrize("fill", ["black", "mean", "blur"])
def test_what_is_filled_in(fill):
    classifier, one = network(), subject(3)
    (found,) = Perturbation(classifier, [curve_named("positive", fill)], (SIDE, SIDE)).readings(one, "labels")
    clean = classifier.normalise(torch.from_numpy(one.image).permute(2, 0, 1)[None])
    filling = baseline_images(classifier, clean, {"mean": "zero"}.get(fill, fill))
    gone = torch.zeros(SIDE * SIDE, dtype=torch.bool)
    gone[torch.from_numpy(one.maps[0]).flatten().topk(int(SIDE * SIDE * 0.4)).indices] = True
    with torch.no_grad():
        chance = classifier(torch.where(gone.view(SIDE, SIDE), filling, clean)).softmax(1)[0, 0]
    assert found.probability["positive"][4] == pytest.approx(float(chance), abs=1e-6)
    # a pixel that is black, or of the mean colour, is 0 in one space and not in the other
    values = {"black": (0 - np.array([0.4, 0.5, 0.3])) / [0.2, 0.3, 0.25], "mean": np.zeros(3)}
    if fill in values:
        assert filling[0, :, 3, 3].numpy() == pytest.approx(values[fill], abs=1e-6)


def test_the_batch_size_changes_nothing():
    curves = [curve_named(name, steps=6) for name in CURVES]
    alone = Perturbation(network(), curves, (SIDE, SIDE), 1, seed=2).readings(subject(1, maps=3), "labels")
    for batch_size in (5, 64):
        together = Perturbation(network(), curves, (SIDE, SIDE), batch_size, seed=2)
        for first, second in zip(alone, together.readings(subject(1, maps=3), "labels"), strict=True):
            assert first.ties == second.ties
            for name in CURVES:
                assert first.hits[name].tolist() == second.hits[name].tolist()
                assert first.probability[name] == pytest.approx(second.probability[name], abs=1e-6)


def test_positive_on_a_map_is_negative_on_its_opposite():
    curves = [curve_named(name) for name in ("positive", "negative", "road-morf", "road-lerf")]
    one = subject(5)
    rounded = np.round(one.maps)  # with ties
    both = [
        Perturbation(network(), curves, (SIDE, SIDE)).readings(
            Subject(one.key, one.image, maps, one.class_id, one.labels), "labels"
        )[0]
        for maps in (rounded, -rounded)
    ]
    for name, opposite in (("positive", "negative"), ("road-morf", "road-lerf")):
        assert both[0].probability[name].tolist() == both[1].probability[opposite].tolist()


def test_insertion_and_deletion_end_where_the_other_begins_or_in_a_blur():
    classifier, one = network("sigmoid"), subject(2)
    curves = [curve_named("insertion", steps=8), curve_named("deletion", steps=8)]
    (found,) = Perturbation(classifier, curves, (SIDE, SIDE)).readings(one, "predicted")
    clean = classifier.normalise(torch.from_numpy(one.image).permute(2, 0, 1)[None])
    with torch.no_grad():
        intact, blurred, mean = (
            float(classifier(pixels).sigmoid()[0, 0]) for pixels in (clean, window_blur(clean), torch.zeros_like(clean))
        )
    insertion, deletion = found.probability["insertion"], found.probability["deletion"]
    assert (len(insertion), len(deletion)) == (9, 9)
    assert [insertion[0], insertion[-1]] == pytest.approx([blurred, intact], abs=1e-6)
    assert [deletion[0], deletion[-1]] == pytest.approx([intact, mean], abs=1e-6)


def test_the_blur_of_rise_is_its_kernel():
    kernel = np.zeros((11, 11))
    kernel[5, 5] = 1
    kernel = gaussian_filter(kernel, 5)
    images = torch.rand(2, 3, 20, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = torch.from_numpy(kernel).expand(3, 1, 11, 11)
    expected = nn.functional.conv2d(images, weights, padding=5, groups=3)
    assert torch.allclose(window_blur(images), expected, atol=1e-12)


def test_road_imputes_before_normalisation_with_noise_of_the_image_alone():
    classifier, one = network(), subject(4, maps=2)
    curves = [curve_named("road-morf"), curve_named("road-lerf")]
    found = Perturbation(classifier, curves, (SIDE, SIDE), seed=7).readings(one, "labels")
    picture = torch.from_numpy(one.image).permute(2, 0, 1)[None] / 255
    gone = torch.zeros(SIDE * SIDE, dtype=torch.bool)
    gone[torch.from_numpy(-one.maps[1]).flatten().topk(int(SIDE * SIDE * 0.7)).indices] = True
    noise = perturb_image.generator(7, "road", *one.key, 7).standard_normal((3, SIDE, SIDE), np.float32) * 0.01
    filled = impute(picture, gone.view(1, SIDE, SIDE), torch.from_numpy(noise.astype(np.float32))[None])
    with torch.no_grad():
        chance = classifier(classifier.normalise(filled)).softmax(1)[0, 1]
    assert found[1].probability["road-lerf"][7] == pytest.approx(float(chance), abs=1e-5)


def test_the_intact_image_is_asked_once_for_all_curves_maps_and_runs():
    classifier = left_half()
    relevance = np.random.default_rng(0).random((SIDE, SIDE)).astype(np.float32)
    perturbation = Perturbation(classifier, [curve_named("positive"), curve_named("negative")], (SIDE, SIDE), 3)
    perturbation.readings(white(relevance), "labels")
    assert classifier.net.asked == 1 + 18
    perturbation.readings(white(-relevance), "labels")
    assert classifier.net.asked == 1 + 18 + 18


def test_right_may_be_what_was_predicted():
    classifier, one = network("sigmoid"), subject(6, maps=3, labels=None)
    found = Perturbation(classifier, [curve_named("positive")], (SIDE, SIDE)).readings(one, "predicted")
    assert [reading.hits["positive"][0] for reading in found] == [1, 1, 1]
    softmax = Perturbation(network(), [curve_named("positive")], (SIDE, SIDE)).readings(one, "predicted")
    assert [reading.hits["positive"][0] for reading in softmax] == [1, 1, 1]
    with pytest.raises(ValueError, match="need labels"):
        Perturbation(classifier, [curve_named("positive")], (SIDE, SIDE)).readings(one, "labels")


def test_a_map_about_no_class_is_about_the_most_probable_one():
    classifier, one = network("sigmoid"), subject(7)
    anonymous = Subject(one.key, one.image, one.maps, np.array([-1], np.int32), one.labels)
    clean = classifier.normalise(torch.from_numpy(one.image).permute(2, 0, 1)[None])
    with torch.no_grad():
        top = int(classifier(clean).argmax())
    named = Subject(one.key, one.image, one.maps, np.array([top + 1], np.int32), one.labels)
    curves = [curve_named("positive")]
    first, second = (
        Perturbation(classifier, curves, (SIDE, SIDE)).readings(which, "predicted")[0] for which in (anonymous, named)
    )
    assert first.probability["positive"].tolist() == second.probability["positive"].tolist()


def test_images_and_maps_of_any_size_are_brought_to_the_frame():
    one = subject(8, size=(48, 64), grid=(12, 16))
    frame = (24, 40)
    (found,) = Perturbation(network(), [curve_named("positive")], frame).readings(one, "labels")
    assert found.ties < 0.05
    flat = Subject(one.key, one.image, np.full((1, 12, 16), 0.3, np.float16), one.class_id, one.labels)
    (found,) = Perturbation(network(), [curve_named("positive")], frame).readings(flat, "labels")
    assert found.ties == 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint8])
@pytest.mark.parametrize("grid", [(5, 7), (40, 33), (24, 20)])
def test_pixels_that_are_equal_stay_equal_in_the_frame(grid, dtype):
    for value in np.random.default_rng(0).random(20) * (255 if dtype == np.uint8 else 1):
        constant = np.full(grid, value).astype(dtype)
        framed = frame_map(constant, (24, 20))
        assert framed.shape == (24, 20)
        assert (framed == np.float32(constant[0, 0])).all()


def test_a_batch_that_does_not_fit_is_halved(monkeypatch):
    classifier, one = network(), subject(9)
    curves = [curve_named("positive")]
    whole = Perturbation(classifier, curves, (SIDE, SIDE), 8).readings(one, "labels")[0]
    forward = type(classifier).forward

    def narrow(self, images):
        if len(images) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, images)

    monkeypatch.setattr(type(classifier), "forward", narrow)
    limit = 2
    again = Perturbation(classifier, curves, (SIDE, SIDE), 8).readings(one, "labels")[0]
    assert again.probability["positive"] == pytest.approx(whole.probability["positive"], abs=1e-6)
    limit = 0
    with pytest.raises(Unavailable):
        Perturbation(classifier, curves, (SIDE, SIDE), 8).readings(one, "labels")
