"""CAM-like methods on the tokens of a transformer, and on networks with channels last."""

import copy
from dataclasses import replace

import pytest
import torch

from tests.heatmaps import oracle_attention as oracle
from tests.heatmaps.nets import ask, normalised, picture
from tests.heatmaps.test_rollout import PAIRS, state_of
from tests.heatmaps.vits import flags, vit
from xseg.classifier import ClassifierConfig
from xseg.classifier.model import build, create
from xseg.errors import UsageError
from xseg.heatmaps import explain_images, methods
from xseg.heatmaps.registry import require_served

ATTENTION = ["raw-attention", "rollout", "attention-grad-cam", "attention-gradient-rollout"]
CAMS = ["grad-cam", "grad-cam++", "hires-cam", "layer-cam"]
FEW = [(0, 1), (1, 0), (0, 3)]
# The last tokens, outside of a block or of a norm, whose patches the head reads.
LAYERS = {
    "class token": "blocks.2.norm1",
    "registers": "blocks.2.norm1",
    "distilled": "blocks.2.norm1",
    "mean": "blocks",
    "mean without class token": "norm",
    "attention pooling": "norm",
    "beit": "blocks.2",
    "eva": "blocks.2",
    "eva with class token": "blocks.2.norm1",
    "cait": "blocks_token_only.1.norm1",
}


def made(family):
    options = {"family": family}
    return create("tests.heatmaps.vits:made", ("a", "b", "c"), weights="none", input_size=(16, 16), options=options)


@pytest.mark.parametrize("family", LAYERS)
def test_the_default_layer_is_the_last_whose_patches_count(family):
    classifier = made(family)
    assert classifier.config.layer == LAYERS[family]
    for name in [*CAMS, "score-cam"]:
        require_served(methods.create(name), classifier)
    maps = methods.create("grad-cam", ["relu=false"])(classifier, ask(normalised(2, 16, 16), [(0, 0), (1, 2)]))
    assert maps.shape == (2, 4, 4)
    assert maps.abs().amax((1, 2)).min() > 0


def test_cam_equals_the_written_out_network_where_normalised_patches_are_averaged():
    classifier, images = vit("mean without class token", layer="norm", depth=4).double(), normalised(3, 16, 16).double()
    require_served(methods.create("cam"), classifier)
    maps = methods.create("cam", ["relu=false"])(classifier, ask(images, PAIRS))
    state = state_of(classifier)
    for (image, target), row in zip(PAIRS, maps, strict=True):
        logits, _, _ = oracle.run(state, images[image], 4, 3, "avg")
        torch.testing.assert_close(row.mean() + state["head.bias"][target], logits[target].detach())
    grad_cam = methods.create("grad-cam", ["relu=false"])(classifier, ask(images, PAIRS))
    torch.testing.assert_close(16 * grad_cam, maps)


def test_a_place_of_cam_is_the_head_on_its_patch():
    classifier, images = vit("mean without class token", layer="norm").double(), normalised(2, 20, 40).double()
    maps = methods.create("cam", ["relu=false"])(classifier, ask(images, [(1, 3)]))
    tokens = classifier.net.forward_features(images)[1]
    assert maps.shape == (1, 5, 10)
    for row in range(5):
        for column in range(10):
            expected = classifier.net.head.weight[3] @ tokens[10 * row + column]
            torch.testing.assert_close(maps[0, row, column], expected.detach())


@pytest.mark.parametrize("family", ["class token", "mean", "attention pooling", "distilled"])
def test_cam_refuses_other_heads_of_transformers(family):
    with pytest.raises(UsageError, match=r"but the logits say there is more; use attention-gradient-rollout, grad-cam"):
        require_served(methods.create("cam"), made(family))


def tail(classifier, hidden, start):
    """Logits from tokens before block `start`."""
    net = classifier.net
    for block in net.blocks[start:]:
        hidden = block(hidden)
    return net.forward_head(net.norm(hidden))


@pytest.mark.parametrize("name", CAMS)
@pytest.mark.parametrize("family", ["class token", "registers", "distilled", "mean"])
def test_maps_are_those_of_the_patches_as_feature_maps(name, family):
    classifier, images = vit(family).double(), normalised(3, 20, 40).double()
    found = methods.create(name, ["relu=false"])(classifier, ask(images, PAIRS, layer="blocks.0"))
    net = classifier.net
    with torch.no_grad():
        tokens = net.blocks[0](net._pos_embed(net.patch_embed(images)))
    prefix = net.num_prefix_tokens
    leaf = tokens.clone().requires_grad_()
    logits = tail(classifier, leaf, 1)
    for (image, target), row in zip(PAIRS, found, strict=True):
        (slope,) = torch.autograd.grad(logits[image, target], leaf, retain_graph=True)
        a = tokens[image, prefix:].reshape(5, 10, -1).permute(2, 0, 1)
        g = slope[image, prefix:].reshape(5, 10, -1).permute(2, 0, 1)
        expected = {
            "grad-cam": (g.mean((1, 2), keepdim=True) * a).sum(0),
            "hires-cam": (g * a).sum(0),
            "layer-cam": (g.clamp(min=0) * a).sum(0),
        }
        if name in expected:
            torch.testing.assert_close(row, expected[name], atol=1e-12, rtol=1e-8)
        else:
            assert row.shape == (5, 10)
            assert torch.isfinite(row).all()


def test_before_a_norm_gradient_times_value_vanishes_and_therefore_the_default_comes_after_it():
    classifier, query = vit(layer="blocks.2.norm1").double(), ask(normalised(2, 16, 20).double(), FEW)
    sizes = {
        layer: methods.create("hires-cam", ["relu=false"])(classifier, replace(query, layer=layer)).abs().max()
        for layer in (None, "blocks.1")
    }
    assert sizes["blocks.1"] < 1e-3 * sizes[None]


@pytest.mark.parametrize("name", CAMS)
def test_patches_that_the_head_does_not_read_are_refused_with_those_that_it_does(name):
    for layer in ("blocks.2", "norm"):
        with pytest.raises(
            UsageError, match=rf"do not depend on the patches of {layer}, .*; use --layer blocks.2.norm1$"
        ):
            require_served(methods.create(name), vit(), layer)
    for layer in ("blocks.1", "blocks.2.norm1", "blocks.0", "patch_embed"):
        require_served(methods.create(name), vit(), layer)
    require_served(methods.create(name), vit("mean"), "blocks.2")


@pytest.mark.parametrize("name", [*CAMS, "score-cam"])
def test_a_stored_default_before_the_blocks_is_refused_with_a_better_one(name):
    for layer in ("patch_embed", "patch_embed.proj"):
        with pytest.raises(
            UsageError, match=f"3 blocks of tokens come between {layer} and the logits; use --layer blocks.2.norm1$"
        ):
            require_served(methods.create(name), vit(layer=layer))
    require_served(methods.create(name), vit(layer="patch_embed"), "patch_embed.proj")


def test_patches_on_their_way_to_tokens_have_their_channels_last():
    images = normalised(2, 20, 40)
    query = ask(images, [(0, 0), (1, 1)], layer="patch_embed")
    dynamic = methods.create("grad-cam", ["relu=false"])(vit(img_size=(20, 40)), query)
    flat = methods.create("grad-cam", ["relu=false"])(vit(img_size=(20, 40), dynamic=False), query)
    first = methods.create("grad-cam", ["relu=false"])(
        vit(img_size=(20, 40)), ask(images, [(0, 0), (1, 1)], layer="patch_embed.proj")
    )
    assert dynamic.shape == (2, 5, 10)
    torch.testing.assert_close(dynamic, flat)
    torch.testing.assert_close(dynamic, first)


def test_networks_with_channels_last_are_served():
    swin = create("timm:swin_tiny_patch4_window7_224", ("a", "b"), weights="none", input_size=(64, 96)).eval()
    assert swin.config.layer == "norm"
    images = normalised(1, 64, 96)
    maps = methods.create("cam", ["relu=false"])(swin, ask(images, [(0, 1)]))
    features = swin.net.forward_features(images)
    assert maps.shape == (1, *features.shape[1:3]) == (1, 2, 3)
    torch.testing.assert_close(maps, (features @ swin.head.weight[1]).detach())
    grad_cam = methods.create("grad-cam", ["relu=false"])(swin, ask(images, [(0, 1)]))
    torch.testing.assert_close(6 * grad_cam, maps, atol=1e-5, rtol=1e-4)
    require_served(methods.create("grad-cam"), swin, "patch_embed.proj")


def test_a_layer_without_places_is_refused():
    assert "needed (N,C,h,w), or tokens (N,T,C) on a grid" in methods.create("grad-cam").serves(vit(), "fc_norm")
    assert "needed (N,C,h,w), or tokens (N,T,C) on a grid" in methods.create("cam").serves(vit(), "fc_norm")


@pytest.mark.parametrize("name", ["grad-cam", "attention-gradient-rollout", "rollout", "input-x-gradient"])
def test_images_of_any_size_and_several_scales(name):
    classifier, seen = made("class token"), []
    classifier.net.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    method = methods.create(name)
    (found,) = explain_images(classifier, method, [picture(37, 61)], [(1, 3)], ["a"], scales=(1, 1.5), flip=True)
    assert found.maps.shape == (2, 37, 61)
    # the next multiples of 4, and none below 32
    assert {shape for shape in seen if shape not in ((16, 16), (32, 32))} == {(36, 60), (56, 92)}
    (found,) = explain_images(classifier, method, [picture(37, 61)], [(2,)], ["a"], map_size="model")
    assert found.maps.shape == (1, 36, 60) if name == "input-x-gradient" else (1, 9, 15)


def test_a_stored_classifier_is_built_for_any_size_again():
    classifier = create("timm:test_vit2", ("a", "b"), weights="none")
    again = build(ClassifierConfig.from_json(classifier.config.to_json()))
    again.net.load_state_dict(classifier.net.state_dict())
    images = normalised(1, 48, 80)
    torch.testing.assert_close(again.eval()(images), classifier.eval()(images))


GRADIENTS = [*CAMS, "input-x-gradient", "integrated-gradients steps=2", "smooth-grad samples=2"]


@pytest.mark.parametrize("name", GRADIENTS)
def test_maps_of_a_transformer_can_be_differentiated_again(name):
    name, *settings = name.split()
    method, classifier = methods.create(name, settings), vit(layer="blocks.2.norm1").double()
    images = normalised(2, 8, 12).double().requires_grad_()

    def maps(*_):
        return method(classifier, ask(images, FEW, create_graph=True))

    torch.testing.assert_close(maps().detach(), method(classifier, ask(images.detach(), FEW)), atol=1e-10, rtol=1e-7)
    given = (images, classifier.net.head.weight, classifier.net.blocks[0].attn.qkv.weight)
    assert torch.autograd.gradcheck(maps, given, fast_mode=True)


@pytest.mark.parametrize("name", [*GRADIENTS, *ATTENTION])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_maps_of_a_transformer_are_close_to_the_plain_ones(name, dtype):
    name, *settings = name.split()
    method, classifier, query = (
        methods.create(name, settings),
        vit(layer="blocks.2.norm1"),
        ask(normalised(2, 16, 20), FEW),
    )
    plain = method(classifier, query)
    with torch.autocast("cpu", dtype):
        found = method(classifier, query)
    assert found.dtype == torch.float32
    for one, other in zip(found, plain, strict=True):
        if other.any():
            assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1] > 0.98


@pytest.mark.parametrize("name", [*GRADIENTS, "cam", "score-cam", *ATTENTION])
@pytest.mark.parametrize("training", [True, False])
def test_a_transformer_is_left_as_it_was(name, training):
    name, *settings = name.split()
    method, classifier = methods.create(name, settings), vit("mean without class token", layer="norm").train(training)
    before, switches = copy.deepcopy(classifier.state_dict()), flags(classifier)
    require_served(method, classifier)
    method(classifier, ask(normalised(2, 16, 20), FEW))
    assert flags(classifier) == switches
    assert all(module.training is training for module in classifier.modules())
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in classifier.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in classifier.modules())
