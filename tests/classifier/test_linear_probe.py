from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.classifier.nets import FakeDataset, tiny
from tests.heatmaps.nets import ask, normalised
from xseg.classifier import Classifier, build, create
from xseg.classifier.linear_probe import LinearProbe, Trunk, probe_name, probed
from xseg.classifier.model import attach_probe
from xseg.classifier.settings import TrainSettings
from xseg.classifier.train import train_classifier
from xseg.errors import UsageError
from xseg.heatmaps import methods

NAMES = ("a", "b", "c")


def resnet():
    return create("timm:resnet10t", ("x", "y"), weights="none", seed=1).eval()


@pytest.mark.parametrize("layer", ["conv1", "layer1", "layer2.0", "layer2.0.conv1", "layer4", "global_pool"])
def test_a_probe_reads_the_mean_of_its_layer(layer):
    whole, images = resnet(), normalised(2, 64, 96)
    seen = []
    handle = whole.net.get_submodule(layer).register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        whole(images)
        handle.remove()
        features = seen[0].detach()
        probe = attach_probe(whole, layer, NAMES, seed=4).eval()
        mean = features.mean((2, 3)) if features.ndim == 4 else features
        expected = mean @ probe.head.weight.T + probe.head.bias
        torch.testing.assert_close(probe.net.trunk(images), features)
        torch.testing.assert_close(probe(images), expected)
    assert (probe.config.layer, probe.config.head, probe.config.activation) == ("trunk", "head", "sigmoid")


def test_what_comes_after_the_layer_is_gone_and_nothing_else():
    whole = resnet()
    keys = list(whole.net.state_dict())
    probe = attach_probe(whole, "layer2.0", NAMES)
    kept = [key.removeprefix("trunk.net.") for key in probe.net.state_dict() if key.startswith("trunk.")]
    ended = next(place for place, key in enumerate(keys) if key.startswith("layer3"))
    assert kept == keys[:ended]


def test_a_part_whose_weights_are_used_without_running_it_stays():
    probe = create("torchvision:vit_b_16", ("x",), weights="none").eval()
    with torch.no_grad():
        made = attach_probe(probe, "encoder.layers.encoder_layer_0", NAMES).eval()
        assert made(normalised(1, 224, 224)).shape == (1, 3)
    kept = made.net.trunk.net.state_dict()
    assert "encoder.layers.encoder_layer_0.self_attention.out_proj.weight" in kept
    assert not [key for key in kept if "encoder_layer_1" in key or key.startswith(("encoder.ln", "heads"))]


def test_tokens_are_averaged():
    vit = create("timm:test_vit", ("x",), weights="none").eval()
    images = normalised(2, *vit.config.input_size)
    with torch.no_grad():
        probe = attach_probe(vit, "blocks.0", NAMES).eval()
        tokens = probe.net.trunk(images)
        assert tokens.ndim == 3
        torch.testing.assert_close(probe(images), probe.head(tokens.mean(1)))


def test_a_probe_is_rebuilt_from_its_config_and_weights():
    probe = attach_probe(resnet(), "layer2", NAMES, head_bias=False).eval()
    assert probed(probe.config.model) == ("timm:resnet10t", "layer2")
    assert probe_name("layer2", "timm:resnet10t") == probe.config.model
    again = build(type(probe.config).from_json(probe.config.to_json())).eval()
    again.net.load_state_dict(probe.net.state_dict())
    images = normalised(1, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(images), probe(images))
    assert again.head.bias is None


def test_only_the_head_learns():
    probe = attach_probe(create("tests.classifier.nets:tiny", NAMES, weights="none"), "1", ("red", "green", "blue"))
    before = {key: value.clone() for key, value in probe.net.state_dict().items()}
    settings = TrainSettings(epochs=2, batch_size=6, crop=32, resize_low=24, resize_high=48, frozen=("trunk",))
    train_classifier(FakeDataset(12), probe, settings)
    changed = {key for key, value in probe.net.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"head.weight", "head.bias"}


@pytest.mark.parametrize("name", ["cam", "grad-cam", "agf", "rap", "lrp", "full-grad", "integrated-gradients"])
def test_a_probe_is_explained_as_the_network_that_ends_there(name):
    """Equal to the same layers in a Sequential, which no exception ends."""
    whole = create("tests.classifier.nets:tiny", NAMES, weights="none", seed=2).eval()
    with torch.no_grad():
        whole.net[0][1].running_mean.uniform_(-1, 1)
    plain = nn.Sequential(deepcopy(whole.net[0]), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    probe = attach_probe(whole, "0", NAMES).eval()
    plain[3].load_state_dict(probe.head.state_dict())
    other = Classifier(replace(probe.config, layer="0", head="3"), plain).eval()
    method, query = methods.create(name), ask(normalised(2, 32, 40), [(0, 1), (1, 2), (1, 0)])
    assert method.serves(probe) is None
    torch.testing.assert_close(method(probe, query), method(other, query))


def test_what_cannot_be_probed_is_refused():
    with pytest.raises(UsageError, match="no such module"):
        attach_probe(resnet(), "layer9", NAMES)
    with pytest.raises(UsageError, match="the head fc is part of it"):
        attach_probe(resnet(), "fc", NAMES)
    with pytest.raises(UsageError, match="a probe itself, at layer1"):
        attach_probe(attach_probe(resnet(), "layer1", NAMES), "head", NAMES)
    with pytest.raises(UsageError, match="occur twice"):
        attach_probe(resnet(), "layer1", ("a", "a"))
    idle = tiny(3)
    idle.add_module("idle", nn.Identity())
    idle.forward = lambda images: idle[1](idle[0](images))
    with pytest.raises(UsageError, match="never run"):
        Trunk(idle, "idle")(torch.zeros(1, 3, 32, 32))
    five = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Unflatten(1, (2, 2)))
    with pytest.raises(UsageError, match=r"shape \(1, 2, 2, 30, 30\)"):
        LinearProbe(five, "1", 2, (32, 32))
