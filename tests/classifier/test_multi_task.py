"""The multi-task U-Net: the classifier in it stays what it was, and the decoder's head says something of each pixel."""

import pytest
import torch
from torch.nn import functional

from tests.classifier.nets import CLASSES
from xseg.classifier import build, create
from xseg.classifier.multi_task import PART, SEGMENT
from xseg.errors import UsageError
from xseg.guided.network import prepared, with_decoder
from xseg.heatmaps.registry import Query, methods

ENCODER = "test_efficientnet"
SHAPE = {"width": 8, "fine": 8}


def trained(bias=True):
    """A classifier whose weights are no longer those of a new one."""
    classifier = create(f"timm:{ENCODER}", CLASSES, weights="none", head_bias=bias, seed=3).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return classifier


def images_of(*size):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("bias", [True, False])
def test_a_decoder_leaves_the_logits_as_they_were(bias):
    before = trained(bias)
    after = with_decoder(before, SHAPE, 0).eval()
    images = images_of(61, 97)
    torch.testing.assert_close(after(images), before(images), rtol=0, atol=0)
    assert after.config.head == f"{PART}.{before.config.head}"
    assert after.config.layer == f"{PART}.{before.config.layer}"
    again = build(after.config)
    again.net.load_state_dict(after.net.state_dict())
    torch.testing.assert_close(again.eval()(images), before(images), rtol=0, atol=0)


def test_the_seed_draws_the_decoder_and_nothing_else_is_drawn():
    before, state = trained(), torch.get_rng_state()
    one, same, other = (with_decoder(before, SHAPE, seed).net.state_dict() for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one[f"{SEGMENT}.weight"], other[f"{SEGMENT}.weight"])


@pytest.mark.parametrize("size", [(64, 64), (61, 97), (33, 40)], ids=str)
def test_maps_are_the_last_features_through_the_segmentation_head(size):
    classifier = with_decoder(trained(), SHAPE, 0).eval()
    images, image, target = images_of(*size), torch.tensor([0, 1, 1]), torch.tensor([2, 0, 1])
    maps = methods.create("segmentation-head", [])(classifier, Query(images, image, target, ("a", "b")))
    net = classifier.net
    with torch.no_grad():
        features = net.decoder(net.encoder(images), images.shape[2:])
        rows = functional.conv2d(features, net.segment.weight, net.segment.bias)
    assert maps.shape == (3, *size)
    torch.testing.assert_close(maps, rows[image, target])


def test_a_background_gets_a_logit_and_a_map_and_the_rest_stays():
    plain = with_decoder(trained(), SHAPE, 0).eval()
    widened = prepared(plain, True, None, 0).eval()
    images = images_of(64, 64)
    torch.testing.assert_close(widened(images), plain(images))
    everything = torch.arange(len(CLASSES) + 1)
    method = methods.create("segmentation-head", [])
    wide = method(widened.full, Query(images, torch.zeros_like(everything), everything, ("a", "b")))
    narrow = method(plain, Query(images, torch.zeros_like(everything[1:]), everything[:-1], ("a", "b")))
    torch.testing.assert_close(wide[1:], narrow)
    assert wide[0].abs().max() > 0


def test_a_loss_on_maps_reaches_decoder_and_encoder_but_not_the_classifying_head():
    classifier = with_decoder(trained(), SHAPE, 0)
    query = Query(images_of(64, 64), torch.tensor([0]), torch.tensor([1]), ("a", "b"), create_graph=True)
    methods.create("segmentation-head", [])(classifier, query).square().sum().backward()
    moved = {name for name, parameter in classifier.net.named_parameters() if parameter.grad is not None}
    assert {"segment.weight", "decoder.levels.0.0.weight", f"{PART}.conv_stem.weight"} <= moved
    assert not any(name.startswith(classifier.config.head) for name in moved)


@pytest.mark.parametrize("training", [True, False])
def test_in_a_loss_maps_are_those_of_the_networks_own_mode(training):
    classifier = with_decoder(trained(), {**SHAPE, "drop_rate": 0.5}, 0).train(training)
    query = Query(images_of(64, 64), torch.tensor([0, 1]), torch.tensor([1, 1]), ("a", "b"), create_graph=True)
    before = classifier.net.decoder.levels[0][1].running_mean.clone()
    first, second = (methods.create("segmentation-head", [])(classifier, query) for _ in range(2))
    assert torch.equal(first, second) is not training
    assert torch.equal(before, classifier.net.decoder.levels[0][1].running_mean) is not training


def test_maps_of_the_encoder_are_those_of_the_classifier_it_was():
    before = trained()
    after = with_decoder(before, SHAPE, 0).eval()
    query = Query(images_of(64, 64), torch.tensor([0, 1]), torch.tensor([1, 2]), ("a", "b"))
    for name in ("cam", "grad-cam", "lrp"):
        method = methods.create(name, [])
        assert method.serves(after) is None
        torch.testing.assert_close(method(after, query), method(before, query), msg=name)


def test_a_new_one_starts_from_its_encoders_weights(tmp_path):
    import timm

    torch.manual_seed(0)
    given = timm.create_model(ENCODER, num_classes=11)
    torch.save(given.state_dict(), tmp_path / "weights.pth")
    made = create("multi-task-unet", CLASSES, weights=str(tmp_path / "weights.pth"), options={"encoder": ENCODER})
    found = made.net.encoder.net.state_dict()
    for key, value in given.state_dict().items():
        assert torch.equal(found[key], value) == (not key.startswith("classifier.")), key


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        ("torchvision:resnet18", {}, "a decoder for torchvision:resnet18"),
        ("timm:test_vit", {}, "test_vit"),
        (f"timm:{ENCODER}", {"widht": 8}, "--set widht"),
        (f"timm:{ENCODER}", {"encoder": "plain"}, "--set encoder=plain"),
    ],
)
def test_what_cannot_have_a_decoder_is_told(model, options, told):
    classifier = create(model, CLASSES, weights="none")
    with pytest.raises(UsageError) as error:
        with_decoder(classifier, options, 0)
    assert told in str(error.value)


def test_networks_without_a_segmentation_head_are_refused():
    assert "segmentation head" in methods.create("segmentation-head", []).serves(trained())
