"""A logit for the background beside those that a classifier has."""

import json
from dataclasses import replace

import pytest
import torch

from tests.classifier.nets import CLASSES, MODEL
from tests.guided.nets import residual
from tests.heatmaps.nets import attending, picture
from xseg.classifier.config import ClassifierConfig
from xseg.classifier.model import Classifier, attach_probe, build, create
from xseg.errors import BadInput, UsageError
from xseg.guided.network import guiding_method, prepared, with_heatmap
from xseg.heatmaps import explain_images, methods, parse_targets


@pytest.fixture(autouse=True)
def _trusted(monkeypatch):
    monkeypatch.setenv("XSEG_FACTORIES", MODEL)


@pytest.fixture
def classifier():
    return create(MODEL, CLASSES, weights="none").eval()


def test_the_other_logits_stay_what_they_were(classifier):
    images = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        before = classifier(images)
        widened = prepared(classifier, True, None, 0).eval()
        assert widened.head.weight.shape[0] == 4
        torch.testing.assert_close(widened(images), before)
        torch.testing.assert_close(widened.full(images)[:, 1:], before)
    assert widened.config.background
    assert widened.full.config.classes == ("background", *CLASSES)
    assert 0 < widened.head.weight[0].abs().max() < 0.06
    assert widened.head.bias[0] == 0


def test_a_new_classifier_has_the_logit_too_and_is_rebuilt_from_its_config():
    made = create(MODEL, CLASSES, weights="none", background=True)
    again = build(ClassifierConfig.from_json(made.config.to_json()))
    again.net.load_state_dict(made.net.state_dict())
    images = torch.randn(1, 3, 24, 24)
    assert again.eval()(images).shape == (1, 3)
    assert torch.equal(again.full(images), made.eval().full(images))


def test_a_config_without_guidance_is_written_as_before(classifier):
    values = json.loads(classifier.config.to_json())
    assert not {"background", "heatmap"} & set(values)
    guided = with_heatmap(prepared(classifier, True, None, 0), ("lrp", "composite=zero")).config
    assert ClassifierConfig.from_json(guided.to_json()) == guided
    assert ClassifierConfig.from_json(classifier.config.to_json()) == classifier.config
    for name, wrong in (("background", 1), ("heatmap", [""])):
        with pytest.raises(BadInput, match=name):
            ClassifierConfig.from_json(json.dumps({**json.loads(guided.to_json()), name: wrong}))


def test_what_cannot_be_guided_is_refused_with_what_can(classifier):
    softmax = Classifier(replace(classifier.config, activation="softmax"), classifier.net)
    with pytest.raises(UsageError, match="softmax"):
        prepared(softmax, True, None, 0)
    with pytest.raises(UsageError, match="no-background"):
        prepared(prepared(classifier, True, None, 0), False, None, 0)
    with pytest.raises(UsageError, match="nowhere"):
        prepared(classifier, True, "nowhere", 0)
    with pytest.raises(UsageError, match=r"--heatmap random: .* cannot be differentiated") as refused:
        guiding_method(("random",), classifier, "energy")
    assert "lrp" in refused.value.hint
    with pytest.raises(UsageError, match=r"--heatmap rollout: it computes no attention"):
        guiding_method(("rollout",), classifier, "energy")
    assert prepared(classifier, False, "0", 0).config.layer == "0"
    with pytest.raises(UsageError, match="probe"):
        prepared(attach_probe(classifier, "1", CLASSES), True, None, 0)


def test_maps_that_are_alike_for_all_classes_cannot_tell_them_apart():
    transformer = attending()
    with pytest.raises(UsageError, match=r"--heatmap rollout with --loss dice: its maps of all classes are alike"):
        guiding_method(("rollout",), transformer, "dice")
    assert guiding_method(("rollout",), transformer, "rrr") == methods.create("rollout")


def test_the_background_is_explained_as_class_0():
    classifier = residual()
    method, image = methods.create("lrp"), picture(20, 24)
    targets = parse_targets("all", classifier, dataset_has_labels=True).of(None, None)
    assert targets == (0, 1, 2, 3)
    assert parse_targets("background,dog", classifier, dataset_has_labels=False).of(None, None) == (0, 2)
    (found,) = explain_images(classifier, method, [image], [targets], ["a"])
    assert found.class_id.tolist() == [0, 1, 2, 3]
    (direct,) = explain_images(classifier.full, method, [image], [(1, 2, 3, 4)], ["a"])
    assert (found.maps == direct.maps).all()
    with pytest.raises(ValueError, match=r"1\.\.3"):
        explain_images(residual(background=False), method, [image], [(0,)], ["a"])


def test_a_classifier_without_background_knows_no_such_class():
    classifier = residual(background=False)
    assert parse_targets("all", classifier, dataset_has_labels=True).of(None, None) == (1, 2, 3)
    with pytest.raises(UsageError, match="background"):
        parse_targets("background", classifier, dataset_has_labels=True)
