import json

import pytest
import torch

from tests.segmenter.nets import CLASSES, segmenter
from xseg.classifier.capture import capture
from xseg.classifier.model import create as create_classifier
from xseg.errors import BadInput, UsageError
from xseg.segmenter.backbone import last_layer
from xseg.segmenter.config import SegmenterConfig
from xseg.segmenter.network import HeadOptions, configure, rebuild

# model -> layer, finer layer; a residual, a depthwise, a channels-last and two token networks
BACKBONES = {
    "timm:test_resnet": ("layer4", "layer1"),
    "timm:test_convnext": ("stages", "stages.0"),
    "timm:test_vit": ("norm", None),
    "timm:swin_tiny_patch4_window7_224": ("norm", "layers.0"),
}


@pytest.mark.parametrize("model", BACKBONES)
def test_every_kind_of_backbone_gives_logits_at_the_size_of_the_image_and_is_rebuilt(model):
    made = segmenter(model).eval()
    config, side = made.config, made.config.backbone.input_size
    assert (config.layer, config.fine_layer) == BACKBONES[model]
    assert config.head == ("deeplabv3+" if config.fine_layer else "deeplabv3")
    images = torch.randn(1, 3, *side)
    again = rebuild(SegmenterConfig.from_json(config.to_json()))
    again.load_state_dict(made.state_dict())
    with torch.no_grad():
        logits = made(images)
        assert logits.shape == (1, 3, *side)
        assert torch.equal(logits, again.eval()(images))


def test_the_features_are_those_of_the_untouched_classifier():
    classifier = create_classifier("timm:test_vit", CLASSES, weights="none").eval()
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad(), capture(classifier, ["norm"]) as found:
        classifier(images)
        made = segmenter("timm:test_vit").eval()
        features, fine = made.backbone(images)
    tokens = found["norm"][:, classifier.net.num_prefix_tokens :]
    assert fine is None
    torch.testing.assert_close(features, tokens.reshape(2, 10, 10, -1).permute(0, 3, 1, 2))


def test_the_last_layer_of_a_transformer_is_after_its_last_block_and_of_others_their_own():
    for model, layer in (("timm:test_vit", "norm"), ("timm:test_resnet", "layer4")):
        assert last_layer(create_classifier(model, CLASSES, weights="none")) == layer


def test_nothing_after_the_layer_is_kept_and_everything_kept_learns():
    for model in ("timm:test_resnet", "timm:test_vit"):
        made = segmenter(model).train()
        assert not [name for name in made.state_dict() if ".fc." in name or ".head." in name[5:]]
        made(torch.randn(2, 3, 160, 160)).square().mean().backward()
        assert [name for name, parameter in made.named_parameters() if parameter.grad is None] == []


def test_equal_seeds_give_equal_heads_and_leave_torchs_numbers_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one, same, other = segmenter(seed=1), segmenter(seed=1), segmenter(seed=2)
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [net.head.classify.weight for net in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_rates_reach_as_far_whatever_the_stride():
    classifier = create_classifier("timm:test_resnet", CLASSES, weights="none", output_stride=8)
    assert configure(classifier, CLASSES, HeadOptions()).rates == (12, 24, 36)


@pytest.mark.parametrize(
    ("model", "head", "told"),
    [
        ("timm:test_vit", {"head": "deeplabv3+"}, "no features of 4 pixels.*--head deeplabv3"),
        ("timm:test_resnet", {"head": "lraspp", "rates": (1,)}, "no dilated convolutions"),
        ("timm:test_resnet", {"layer": "nowhere"}, "no such module"),
        ("timm:test_resnet", {"layer": "fc"}, "needed \\(N,C,h,w\\)"),
        ("timm:test_resnet", {"dropout": 1.0}, "cannot be made"),
        ("timm:test_resnet", {"width": 100000}, "width is 100000"),
    ],
)
def test_heads_that_do_not_fit_are_refused(model, head, told):
    with pytest.raises(UsageError, match=told):
        segmenter(model, **head)


def changed(**entries):
    values = json.loads(segmenter().config.to_json()) | entries
    return json.dumps({key: value for key, value in values.items() if value != "absent"})


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "nonsense",
        changed(width="many"),
        changed(width=True),
        changed(width=10**9),
        changed(channels=0),
        changed(head="tail"),
        changed(rates=[]),
        changed(rates=[0]),
        changed(rates="123"),
        changed(fine_channels=3, fine_layer=None),
        changed(classes=[]),
        changed(classes=["a", "a"]),
        changed(dropout=1.5),
        changed(norm="absent"),
        changed(extra=1),
        changed(backbone={}),
    ],
)
def test_a_config_that_cannot_be_is_bad_input(text):
    with pytest.raises(BadInput):
        SegmenterConfig.from_json(text)


def test_a_config_that_names_a_layer_of_another_network_is_bad_input():
    with pytest.raises(BadInput, match="nowhere"):
        rebuild(SegmenterConfig.from_json(changed(layer="nowhere", backbone=json.loads(resnet_config()))))


def resnet_config():
    return create_classifier("timm:test_resnet", CLASSES, weights="none").config.to_json()


def test_finer_features_come_before_the_layer_that_is_read():
    made = segmenter("timm:test_resnet", layer="layer3", head="lraspp")
    assert (made.config.fine_layer, made.config.fine_channels) == ("layer2", 48)
    with pytest.raises(UsageError, match="no features of 4 pixels"):
        segmenter("tests.segmenter.nets:decoder", layer="1", head="deeplabv3+")
    assert segmenter("tests.segmenter.nets:decoder", layer="1").config.head == "deeplabv3"
