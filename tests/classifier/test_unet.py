"""The U-Net classifier: its resolution, its paths, its weights, its options, and the maps on its last features."""

import json
from dataclasses import fields, replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.classifier.nets import CLASSES, FakeDataset
from xseg.classifier import ClassifierConfig, build, capture, create, feature_layers
from xseg.classifier.features import stage_modules
from xseg.classifier.model import attach_probe, create_former, former_model
from xseg.classifier.settings import TrainSettings
from xseg.classifier.sources import hub_state, parse_source, published_weights
from xseg.classifier.train import train_classifier
from xseg.classifier.unet import FEATURES, PRESETS, Decoder, UNetShape
from xseg.device import torchvision_ready
from xseg.errors import BadInput, UsageError
from xseg.heatmaps.registry import Query, methods
from xseg.scores.randomise import stages_of
from xseg.training.optim import parameter_groups

ENCODER, CONVNEXT = "test_efficientnet", "convnext_atto"  # the second has no features finer than a stride of 4
BOTTLENECK = {ENCODER: "encoder.net.blocks.4", "plain": "encoder.levels.3"}
SIZES = [(64, 64), (61, 97), (33, 16), (7, 130)]


def tiny(encoder=ENCODER, weights="none", **options):
    options = {"encoder": encoder, "width": 8, "depth": 3 if encoder == "plain" else 5, **options}
    return create("unet", CLASSES, weights=str(weights), options=options)


def settled(classifier):
    """In float64, with norms and biases that have something to say."""
    torch.manual_seed(1)
    for module in classifier.net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return classifier.double().eval()


def images_of(*size, count=2):
    return torch.randn(count, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def encoder_weights(tmp_path_factory):
    torchvision_ready()
    import timm

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "encoder.pth"
    torch.save(timm.create_model(ENCODER, num_classes=11).state_dict(), path)
    return path


def by_hand(net, images, skips):
    """Logits written out from the encoder's features: resize, join, two convolutions with norms, mean, head."""
    w = dict(net.named_parameters()) | dict(net.named_buffers())
    features = net.encoder(images)
    x, finer = features.pop(), features[::-1]
    levels = len(net.decoder.levels)
    for level in range(levels):
        skip = finer[level] if level < len(finer) else None
        size = images.shape[2:] if skip is None else skip.shape[2:]
        x = functional.interpolate(x, size, mode="bilinear", align_corners=False)
        x = torch.cat([x, skip], 1) if skips and skip is not None else x
        for at in (f"decoder.levels.{level}.{k}" for k in (0, 3)):
            x = functional.conv2d(x, w[f"{at}.weight"], padding=1)
            norm = f"{at[:-1]}{int(at[-1]) + 1}"
            mean, var = (w[f"{norm}.running_{name}"][:, None, None] for name in ("mean", "var"))
            x = (x - mean) / (var + 1e-5).sqrt() * w[f"{norm}.weight"][:, None, None] + w[f"{norm}.bias"][:, None, None]
            x = x.clamp(min=0)
    return x, x.mean((2, 3)) @ w["head.weight"].T + w["head.bias"]


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize(
    ("encoder", "size"),
    [(encoder, size) for encoder in (ENCODER, "plain") for size in SIZES] + [(CONVNEXT, size) for size in SIZES[:2]],
)
def test_the_last_features_have_the_size_of_the_image_and_the_logits_are_those_of_the_formulas(encoder, size, skips):
    classifier = settled(tiny(encoder, skips=skips))
    images = images_of(*size)
    with torch.no_grad(), capture(classifier, [FEATURES]) as found:
        logits = classifier(images)
    features, expected = by_hand(classifier.net, images, skips)
    assert found[FEATURES].shape == (2, 8, *size)
    torch.testing.assert_close(found[FEATURES], features, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


def test_the_encoders_features_are_those_that_timm_gives(encoder_weights):
    import timm

    classifier = tiny(weights=encoder_weights).eval()
    whole = timm.create_model(ENCODER, num_classes=11).eval()
    whole.load_state_dict(torch.load(encoder_weights, weights_only=True))
    published = timm.create_model(ENCODER, features_only=True).eval()
    published.load_state_dict(whole.state_dict(), strict=False)
    images = images_of(61, 97).float()
    with torch.no_grad():
        for own, other in zip(classifier.net.encoder(images), published(images), strict=True):
            assert torch.equal(own, other)
    assert classifier.net.encoder.strides == [2, 4, 8, 16, 32]


@pytest.mark.parametrize("encoder", [ENCODER, "plain"])
@pytest.mark.parametrize("skips", [True, False])
def test_the_only_path_from_encoder_to_decoder_without_skips_is_the_bottleneck(encoder, skips):
    """By gradients: of the logits, and of every pixel's features, by every feature map that the decoder is given."""
    net = settled(tiny(encoder, skips=skips)).net
    features = [values.detach().requires_grad_() for values in net.encoder(images_of(45, 70))]
    decoded = net.decoder(features, (45, 70))
    logits = net.head(decoded.mean((2, 3)))
    for seen in (decoded.square().sum(), logits[:, 0].sum()):
        *finer, bottleneck = torch.autograd.grad(seen, features, retain_graph=True, allow_unused=True)
        assert bottleneck.abs().max() > 0
        assert [gradient is not None and bool(gradient.any()) for gradient in finer] == [skips] * len(finer)


@pytest.mark.parametrize("encoder", [ENCODER, "plain"])
@pytest.mark.parametrize("skips", [True, False])
def test_with_a_constant_in_the_bottleneck_no_pixel_reaches_the_logits_without_skips(encoder, skips):
    classifier = settled(tiny(encoder, skips=skips))
    path = BOTTLENECK[encoder]
    handle = classifier.net.get_submodule(path).register_forward_hook(lambda *call: torch.ones_like(call[2]))
    images = images_of(45, 70).requires_grad_()
    logits = classifier(images)
    if skips:
        (gradient,) = torch.autograd.grad(logits[:, 0].sum(), images)
        assert gradient.abs().max() > 0
        assert not torch.equal(logits[0], logits[1])
    else:
        assert not torch.autograd.grad(logits.requires_grad_()[:, 0].sum(), images, allow_unused=True)[0]
        assert torch.equal(logits[0], logits[1])
    handle.remove()


def test_the_ablated_network_lacks_the_weights_that_read_the_skips_and_no_others():
    whole, ablated = (dict(tiny(skips=skips).net.named_parameters()) for skips in (True, False))
    assert whole.keys() == ablated.keys()
    differ = {key for key in whole if whole[key].shape != ablated[key].shape}
    assert differ == {f"decoder.levels.{level}.0.weight" for level in range(4)}
    channels = tiny().net.encoder.channels[-2::-1]
    for level, more in enumerate(channels):
        key = f"decoder.levels.{level}.0.weight"
        assert whole[key].shape[1] - ablated[key].shape[1] == more


def test_one_image_gives_what_it_gives_among_others():
    classifier = settled(tiny())
    images = images_of(50, 41, count=5)
    with torch.no_grad():
        alone = torch.cat([classifier(image[None]) for image in images])
        torch.testing.assert_close(classifier(images), alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("encoder", [ENCODER, "plain"])
def test_a_rebuilt_u_net_is_the_same_network(encoder):
    created = settled(tiny(encoder, skips=False, drop_rate=0.2))
    rebuilt = build(ClassifierConfig.from_json(created.config.to_json())).double().eval()
    rebuilt.net.load_state_dict(created.net.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt(images_of(45, 70)), created(images_of(45, 70)))


def test_the_config_holds_every_number_of_the_shape():
    config = create("unet", CLASSES, weights="none", options={"preset": "paper-002", "width": 4}).config
    assert set(config.options) == {field.name for field in fields(UNetShape)}
    assert (config.options["encoder"], config.options["fine"], config.options["depth"]) == ("plain", 1, 4)
    assert (config.model, config.layer, config.head, config.input_size) == ("unet", FEATURES, "head", (224, 224))
    assert config.output_stride is None


def test_the_preset_of_the_paper_has_the_channels_of_ronneberger_et_al():
    shape = UNetShape.of({"preset": "paper-002"})
    assert PRESETS["paper-002"]["encoder"] == "plain"
    with torch.device("meta"):
        decoder = Decoder(shape, [64, 128, 256, 512, 1024], [1, 2, 4, 8, 16])
    sizes = [(level[0].in_channels, level[0].out_channels, level[3].out_channels) for level in decoder.levels]
    # There a 2x2 up-convolution halves the channels first: 512 + 512 where here 1024 + 512 are read.
    assert sizes == [(1536, 512, 512), (768, 256, 256), (384, 128, 128), (192, 64, 64)]


@pytest.mark.parametrize("skips", [True, False])
def test_a_new_decoder_passes_the_bottleneck_on(skips):
    """Against singular values: the middles of the kernels turn coarser features and lose what has no room."""
    net = tiny(skips=skips).net
    coarser = net.encoder.channels[-1]
    for level in net.decoder.levels:
        for convolution, read in ((level[0], coarser), (level[3], level[3].in_channels)):
            middle = convolution.weight[:, :read, 1, 1].double()
            assert middle.shape[0] <= read
            spread = torch.linalg.svdvals(middle) / 2**0.5
            assert 0.6 < spread.min() <= spread.max() < 1.4
            others = convolution.weight.double().square().sum() - middle.square().sum()
            assert others < middle.square().sum() / 5
        coarser = len(middle)


def test_the_published_decoder_is_drawn_as_published():
    """He et al.: the variance of a weight is 2 / (channels times 9), middle or not."""
    torch.manual_seed(0)
    shape = UNetShape(encoder="plain", width=16, fine=1, depth=2, passing=False)
    level = Decoder(shape, [16, 32, 64], [1, 2, 4]).levels[0]
    weight = level[0].weight
    for drawn in (weight, weight[:, :, 1, 1]):
        assert drawn.var().item() == pytest.approx(2 / (weight.shape[1] * 9), rel=0.1)
    assert PRESETS["paper-002"]["passing"] is False


def test_the_stages_are_those_of_the_encoder_and_then_of_the_decoder():
    classifier = tiny()
    layers = feature_layers(classifier)
    strides = [layer.stride for layer in layers]
    turn = strides.index(32)
    assert strides[: turn + 1] == sorted(strides[: turn + 1])
    assert strides[turn:] == [32, 16, 8, 4, 2, 1]
    assert layers[-1].path == FEATURES
    assert all(path.startswith("encoder.") for path in stage_modules(classifier, turn + 1))
    assert stage_modules(classifier, turn + 1)[-1] == BOTTLENECK[ENCODER]
    assert [stage.name for stage in stages_of(classifier)][:3] == ["head", FEATURES, "decoder.levels.3"]


def test_the_decoder_learns_at_the_rate_of_the_head():
    classifier = tiny()
    groups = parameter_groups(classifier.net, classifier.fresh, TrainSettings(head_lr_multiplier=7).optim())
    fresh = {id(p) for group in groups if group["name"].startswith("new") for p in group["params"]}
    found = {name for name, parameter in classifier.net.named_parameters() if id(parameter) in fresh}
    assert found == {name for name, _ in classifier.net.named_parameters() if name.startswith(("decoder.", "head."))}


def test_a_probe_of_a_u_net_learns_its_new_head_alone():
    probe = attach_probe(tiny(), "decoder.levels.2", CLASSES).eval()
    assert probe.fresh == ["head"]
    assert probe(torch.zeros(1, 3, 40, 50)).shape == (1, 3)


# --- weights -------------------------------------------------------------------------------------------------------


def test_weights_of_the_encoder_all_go_into_it_but_for_the_head_and_what_comes_after(encoder_weights):
    given = torch.load(encoder_weights, weights_only=True)
    net = tiny(weights=encoder_weights).net
    loaded = net.get_submodule("encoder.net").state_dict()
    assert all(torch.equal(value, given[key]) for key, value in loaded.items())
    left = {key.partition(".")[0] for key in given if key not in loaded}
    assert left == {"conv_head", "bn2", "classifier"}
    assert {key for key in net.encoder.unused} == {key for key in given if key.startswith(("conv_head", "bn2"))}


def test_the_published_weights_of_lite0_fit(shared):
    from safetensors.torch import load_file

    path = shared("weights/tf_efficientnet_lite0.safetensors")
    classifier = create("unet", CLASSES, weights=str(path))
    given, loaded = load_file(path), classifier.net.get_submodule("encoder.net").state_dict()
    assert all(torch.equal(value, given[key]) for key, value in loaded.items())
    assert classifier.config.mean == (0.5, 0.5, 0.5)


def test_weights_that_lack_a_tensor_of_the_encoder_or_have_one_too_many_are_bad_input(tmp_path, encoder_weights):
    state = torch.load(encoder_weights, weights_only=True)
    torch.save({key: value for key, value in state.items() if key != "conv_stem.weight"}, tmp_path / "cut.pth")
    with pytest.raises(BadInput, match=r"as those of the encoder.*missing conv_stem\.weight"):
        tiny(weights=tmp_path / "cut.pth")
    torch.save({**state, "extra.weight": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(BadInput, match=r"unexpected extra\.weight"):
        tiny(weights=tmp_path / "more.pth")


@pytest.mark.parametrize("encoder", [ENCODER, "plain"])
def test_weights_of_a_whole_u_net_load_with_their_head_or_without(tmp_path, encoder):
    source = tiny(encoder)
    torch.save(source.net.state_dict(), tmp_path / "whole.pth")
    options = dict(source.config.options)
    fresh = create("unet", list("abcde"), weights=str(tmp_path / "whole.pth"), options=options, seed=3)
    for key, value in source.net.state_dict().items():
        assert key.startswith("head.") or torch.equal(fresh.net.state_dict()[key], value)
    kept = create("unet", CLASSES, weights=str(tmp_path / "whole.pth"), keep_head=True, options=options)
    assert torch.equal(kept.head.weight, source.head.weight)
    with pytest.raises(BadInput, match=r"decoder\.levels\.0\.0\.weight"):
        tiny(encoder, tmp_path / "whole.pth", skips=False)


def test_hub_weights_are_those_of_the_encoder_and_the_plain_one_has_none():
    source = parse_source("unet")
    assert str(published_weights(source, {"encoder": "resnet50"})) == "timm:resnet50"
    plain = published_weights(source, {"encoder": "plain"})
    with pytest.raises(UsageError, match="unet has no published weights"):
        hub_state(plain)


def test_the_head_of_an_encoder_can_neither_be_kept_nor_transferred(tmp_path, encoder_weights):
    options = dict(tiny().config.options)
    with pytest.raises(UsageError, match="the head of the encoder"):
        create("unet", None, weights=str(encoder_weights), keep_head=True, options=options)
    with pytest.raises(UsageError, match="--head-init transfer") as caught:
        former_model("unet", str(encoder_weights), options)
    assert "whole unet" in caught.value.hint
    torch.save(tiny().net.state_dict(), tmp_path / "whole.pth")
    former = create_former("unet", CLASSES, weights=str(tmp_path / "whole.pth"), options=options)
    assert former.config.model == "unet"


# --- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"encoder": "no_such_net"}, "timm has no such model"),
        ({"encoder": 5}, "needed the name"),
        ({"encoder": "test_vit"}, "images of some sizes only"),
        ({"encoder": "hrnet_w18_small"}, "it cannot be one"),
        ({"encoder": "swin_tiny_patch4_window7_224"}, "images of some sizes only"),
        ({"depth": 6}, "features of stride 2, 4, 8, 16, 32, needed 64"),
        ({"skips": 1}, "needed true or false"),
        ({"skips": "no"}, "needed true or false"),
        ({"width": 0}, "needed a number from 1"),
        ({"width": 257}, "needed a number from 1 to 256"),
        ({"width": 2.5}, "needed a whole number"),
        ({"fine": True}, "needed a whole number"),
        ({"depth": 9}, "needed a number from 1 to 6"),
        ({"drop_rate": 1}, "needed a number from 0"),
        ({"preset": "paper-003"}, "--set preset=paper-003"),
        ({"pretrained": True}, "not an option of unet"),
    ],
)
def test_options_that_mean_nothing_are_refused_in_a_sentence(options, words):
    with pytest.raises(UsageError, match=words) as caught:
        tiny(**options)
    assert caught.value.hint or "needed" in str(caught.value)


def test_an_output_stride_is_refused_when_made_and_when_read():
    with pytest.raises(UsageError, match="--output-stride 16: a U-Net's last features"):
        create("unet", CLASSES, weights="none", output_stride=16, options={"encoder": "plain", "width": 4})
    with pytest.raises(UsageError, match="leave it out"):
        build(replace(tiny().config, output_stride=8))


def test_a_config_from_a_file_can_ask_for_no_other_options():
    values = json.loads(tiny().config.to_json())
    values["options"]["checkpoint_path"] = "/etc/passwd"
    with pytest.raises(UsageError, match="checkpoint_path"):
        build(ClassifierConfig.from_json(json.dumps(values)))


def test_shallower_networks_stop_at_a_finer_bottleneck(encoder_weights):
    net = tiny(weights=encoder_weights, depth=3).net
    assert net.encoder.strides == [2, 4, 8]
    assert not any(key.startswith("blocks.4") for key in net.encoder.net.state_dict())


# --- maps ----------------------------------------------------------------------------------------------------------


def question(images):
    count = len(images)
    ids = tuple(str(k) for k in range(count))
    return Query(images, torch.arange(count), torch.arange(count) % len(CLASSES), ids)


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_class_activation_maps_have_a_value_for_every_pixel_and_are_the_heads_weights_on_the_features(size, skips):
    classifier = settled(tiny(skips=skips))
    images = images_of(*size)
    features, logits = by_hand(classifier.net, images, skips)
    expected = torch.stack([(classifier.head.weight[k][:, None, None] * features[k]).sum(0) for k in range(2)])
    found = methods.create("cam", ["relu=false"])(classifier, question(images))
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-9)
    means = found.mean((1, 2)) + classifier.head.bias[:2].detach()
    torch.testing.assert_close(means, logits.diagonal().detach(), rtol=1e-9, atol=1e-9)
    # With a mean and a linear head Grad-CAM is CAM divided by the number of places.
    grad = methods.create("grad-cam")(classifier, question(images))
    torch.testing.assert_close(grad * size[0] * size[1], expected.relu().detach(), rtol=1e-8, atol=1e-9)


def test_grad_cam_plus_plus_is_the_papers_formula_where_gradients_are_tiny():
    """A mean over n places makes gradients w / n, and the weights by Eq. 19 are w / (2 + w mean(A)), n or no n."""
    classifier = settled(tiny())
    images = images_of(97, 131)
    features, _ = by_hand(classifier.net, images, True)
    weight = classifier.head.weight[:2].relu()
    expected = torch.einsum("kc,kchw->khw", weight / (2 + weight * features.mean((2, 3))), features)
    found = methods.create("grad-cam++", ["epsilon=0"])(classifier, question(images))
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["grad-cam", "grad-cam++", "hires-cam", "layer-cam", "score-cam", "cam"])
@pytest.mark.parametrize("size", [(61, 40), (64, 96)])
def test_every_method_on_the_last_features_serves_at_the_images_resolution(name, size):
    method, classifier = methods.create(name), settled(tiny())
    assert method.serves(classifier) is None
    maps = method(classifier, question(images_of(*size)))
    assert maps.shape == (2, *size)
    assert torch.isfinite(maps).all()


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("encoder", ["plain", "test_resnet"])
def test_relevance_passes_upsampling_and_skips(encoder, skips):
    """Without biases the network is piecewise linear, and the rule LRP-0 then is input times gradient."""
    classifier = tiny(encoder, skips=skips, depth=3).double().eval()  # fresh norms shift nothing
    rules = ["conv=zero", "dense=zero", "first=zero", "stabiliser=1e-14"]
    images = images_of(37, 50)
    found = methods.create("lrp", rules)(classifier, question(images))
    expected = methods.create("input-x-gradient")(classifier, question(images))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))
    torch.testing.assert_close(found.sum((1, 2)), classifier(images).diagonal().detach(), rtol=1e-9, atol=0)


# --- training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skips", [True, False])
def test_it_learns_on_few_images(encoder_weights, skips):
    settings = TrainSettings(
        epochs=20, batch_size=8, crop=48, resize_low=40, resize_high=48, optimizer="adamw", lr=0.002, jitter=0.0,
        flip=0.0, frozen=1,
    )  # fmt: skip
    classifier = tiny(weights=encoder_weights, skips=skips)
    before = classifier.net.encoder.net.conv_stem.weight.clone()
    result = train_classifier(FakeDataset(24), classifier, settings)
    assert result.history[-1]["loss"] < 0.8 * result.history[0]["loss"]
    assert torch.equal(classifier.net.encoder.net.conv_stem.weight, before)
