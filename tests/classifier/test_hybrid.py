"""The hybrid vision transformer: its start, its weights, its options, and its way through the chain."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.classifier.nets import CLASSES, FakeDataset
from xseg.classifier import ClassifierConfig, build, create, feature_layers
from xseg.classifier.features import stage_modules
from xseg.classifier.hybrid import FEATURES, PRESETS, HybridShape, embedding, head_in_tokens, hybrid_vit
from xseg.classifier.model import create_former
from xseg.classifier.settings import TrainSettings
from xseg.classifier.sources import parse_source, published_weights
from xseg.classifier.train import train_classifier
from xseg.classifier.transfer import transfer_head
from xseg.device import torchvision_ready
from xseg.errors import BadInput, Stopped, UsageError
from xseg.scores.randomise import stages_of
from xseg.training.checkpoint import Checkpoint

STEM, COARSE = "test_efficientnet", "mobilenetv3_small_050"  # the second has a stride of 32 and no other
TINY = {"stem": STEM, "dim": 24, "heads": 3, "depth": 2, "grid": 4}
CPU = torch.device("cpu")


def tiny(weights="none", **options):
    return create("hybrid-vit", CLASSES, weights=str(weights), options={**TINY, **options})


@pytest.fixture(scope="module")
def stem_weights(tmp_path_factory):
    torchvision_ready()
    import timm

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "stem.pth"
    torch.save(timm.create_model(STEM, num_classes=11).state_dict(), path)
    return path


def by_hand(net, images, sizes):
    """The logits in float64, written out: tokens, interpolated positions, attention head by head, MLP, norm, head."""
    net = net.double().eval()
    w = dict(net.named_parameters())

    def norm(x, name):
        return functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    features = net.get_submodule(FEATURES)(images.double())
    tokens = torch.einsum("nkhw,dk->nhwd", features, w["patch_embed.proj.weight"][:, :, 0, 0])
    tokens = tokens + w["patch_embed.proj.bias"]
    assert tokens.shape[1:3] == sizes
    grid = embedding(net).grid_size
    place = w["pos_embed"][0, 1:].reshape(1, *grid, -1).permute(0, 3, 1, 2)
    place = functional.interpolate(place.float(), sizes, mode="bicubic", antialias=True).double()
    x = (tokens + place.permute(0, 2, 3, 1)).flatten(1, 2)
    first = (w["cls_token"][0, 0] + w["pos_embed"][0, 0]).expand(len(x), 1, -1)
    x = torch.cat([first, x], 1)
    for block in range(len(net.blocks)):
        at = f"blocks.{block}"
        scale = [w.get(f"{at}.ls{k}.gamma", torch.ones(())) for k in (1, 2)]
        q, k, v = linear(norm(x, f"{at}.norm1"), f"{at}.attn.qkv").chunk(3, -1)
        width = q.shape[-1] // net.blocks[block].attn.num_heads
        heads = []
        for start in range(0, q.shape[-1], width):
            part = slice(start, start + width)
            share = (q[..., part] @ k[..., part].transpose(1, 2) / width**0.5).softmax(-1)
            heads.append(share @ v[..., part])
        x = x + scale[0] * linear(torch.cat(heads, -1), f"{at}.attn.proj")
        hidden = functional.gelu(linear(norm(x, f"{at}.norm2"), f"{at}.mlp.fc1"))
        x = x + scale[1] * linear(hidden, f"{at}.mlp.fc2")
    return linear(norm(x, "norm")[:, 0], "head")


@pytest.mark.parametrize("layer_scale", [0.1, None])
@pytest.mark.parametrize(("height", "width", "sizes"), [(64, 64, (4, 4)), (50, 97, (4, 7)), (33, 16, (3, 1))])
def test_the_logits_are_those_of_the_formulas_at_any_size_and_aspect(layer_scale, height, width, sizes):
    classifier = tiny(layer_scale=layer_scale).eval()
    torch.manual_seed(1)
    for parameter in classifier.net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    images = torch.randn(2, 3, height, width)
    with torch.no_grad():
        found = classifier.double()(images.double())
        expected = by_hand(classifier.net, images, sizes)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert embedding(classifier.net).dynamic_feat_size((height, width)) == sizes


@pytest.mark.parametrize(("stem", "stride"), [(STEM, 16), (STEM, 32), ("convnext_atto", 16), (COARSE, 32)])
def test_the_token_grid_is_known_for_any_image(stem, stride):
    shape = HybridShape.of({**TINY, "stem": stem})
    net = hybrid_vit(shape, 2, stride).eval()
    embed = embedding(net)
    for size in [(64, 64), (65, 95), (127, 96)]:
        with torch.no_grad():
            assert tuple(embed(torch.zeros(1, 3, *size)).shape[1:3]) == embed.dynamic_feat_size(size)


def test_training_starts_from_a_network_that_pools():
    classifier = tiny().eval()
    images = torch.randn(3, 3, 80, 64)
    with torch.no_grad():
        # Tokens of a random stem are small; those of Lite0's weights have a deviation of 0.6.
        classifier.net.patch_embed.proj.weight /= classifier.net.patch_embed(images).std()
        tokens = classifier.net.patch_embed(images).flatten(1, 2)
        mean = functional.layer_norm(tokens, (24,)).mean(1)
        expected = functional.linear(functional.layer_norm(mean, (24,)), classifier.head.weight)
        torch.testing.assert_close(classifier(images), expected, rtol=0.1, atol=2e-3)
        seen = []
        handle = classifier.net.blocks[-1].register_forward_hook(lambda *call: seen.append(call[2]))
        classifier(images)
        handle.remove()
    assert (seen[0][:, 1:] - tokens).norm() < 0.3 * tokens.norm()


def test_every_parameter_learns_from_the_first_steps_on():
    classifier = tiny().train()
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1)
    for _ in range(2):  # the first hidden layers of the MLPs wait for the second ones, which start at zero
        optimizer.zero_grad()
        classifier(torch.randn(4, 3, 64, 64)).square().sum().backward()
        optimizer.step()
    still = [name for name, parameter in classifier.net.named_parameters() if not parameter.grad.any()]
    assert still == []


def test_a_rebuilt_hybrid_is_the_same_network_at_any_output_stride():
    created = tiny(layer_scale=None).eval()
    config = ClassifierConfig.from_json(created.config.to_json())
    images = torch.randn(1, 3, 64, 96)
    for stride, grid in ((None, (4, 6)), (8, (8, 12)), (32, (2, 3))):
        rebuilt = build(replace(config, output_stride=stride)).eval()
        rebuilt.net.load_state_dict(created.net.state_dict())
        assert embedding(rebuilt.net).dynamic_feat_size((64, 96)) == grid
        with torch.no_grad():
            assert torch.equal(rebuilt(images), created(images)) == (stride is None)


def test_the_config_holds_every_number_of_the_shape():
    config = create("hybrid-vit", CLASSES, weights="none", options={**TINY, "preset": "paper-003"}).config
    assert set(config.options) == {field.name for field in fields(HybridShape)}
    assert config.options["mlp_ratio"] == 4.0
    assert config.options["layer_scale"] is None
    assert (config.model, config.layer, config.head, config.input_size) == ("hybrid-vit", FEATURES, "head", (64, 64))


def test_the_stages_are_those_of_the_stem():
    classifier = tiny()
    layers = feature_layers(classifier)
    assert layers[-1].path == FEATURES
    assert all(layer.path.startswith(FEATURES) for layer in layers)
    assert [layer.stride for layer in layers] == sorted(layer.stride for layer in layers)
    assert all(path.startswith(FEATURES) for path in stage_modules(classifier, 2))


def test_what_is_drawn_anew_stage_by_stage_goes_from_the_head_through_the_blocks_into_the_stem():
    names = [stage.name for stage in stages_of(tiny())]
    assert names[:4] == ["head", "blocks.1", "blocks.0", FEATURES]
    assert all(name.startswith(FEATURES) for name in names[3:])


def test_weights_of_the_stem_go_into_the_stem_and_its_head_decides_the_embedding(stem_weights):
    given = torch.load(stem_weights, weights_only=True)
    classifier = tiny(stem_weights)
    loaded = classifier.net.get_submodule(FEATURES).state_dict()
    assert loaded
    assert all(torch.equal(value, given[key]) for key, value in loaded.items())
    assert {key for key in given if key not in loaded} == {"classifier.weight", "classifier.bias"}
    proj = classifier.net.patch_embed.proj.weight.flatten(1).double()
    torch.testing.assert_close(proj @ proj.T, torch.eye(24).double(), atol=1e-5, rtol=0)
    # 11 classes differ in 10 directions, all among the 24: nothing the head tells apart is lost.
    head = given["classifier.weight"].double()
    centred = head - head.mean(0)
    torch.testing.assert_close(centred @ proj.T @ proj, centred, atol=1e-6, rtol=0)


def test_weights_of_a_whole_hybrid_load_with_their_head_or_without(tmp_path):
    source = create("hybrid-vit", [str(k) for k in range(5)], weights="none", options=TINY, seed=3)
    torch.save(source.net.state_dict(), tmp_path / "whole.pth")
    fresh = tiny(tmp_path / "whole.pth")
    for key, value in source.net.state_dict().items():
        assert key.startswith("head.") or torch.equal(fresh.net.state_dict()[key], value)
    kept = create("hybrid-vit", list("abcde"), weights=str(tmp_path / "whole.pth"), keep_head=True, options=TINY)
    assert torch.equal(kept.head.weight, source.head.weight)
    assert kept.config.activation == "softmax"


def test_position_embeddings_of_another_grid_are_interpolated(tmp_path):
    source = tiny(layer_scale=None)
    torch.save(source.net.state_dict(), tmp_path / "whole.pth")
    larger = tiny(tmp_path / "whole.pth", grid=6, layer_scale=None)
    assert larger.net.pos_embed.shape == (1, 37, 24)
    assert torch.equal(larger.net.pos_embed[:, 0], source.net.pos_embed[:, 0])
    old, new = (net.pos_embed[0, 1:].reshape(side, side, 24) for net, side in ((source.net, 4), (larger.net, 6)))
    expected = functional.interpolate(old.permute(2, 0, 1)[None], (6, 6), mode="bicubic", antialias=True)
    torch.testing.assert_close(new.permute(2, 0, 1)[None], expected)


@pytest.mark.slow
def test_the_shape_of_the_paper_has_the_names_and_sizes_of_timms(tmp_path):
    torchvision_ready()
    import timm

    with torch.device("meta"):
        published = timm.create_model("vit_base_r50_s16_384", num_classes=3).state_dict()
    net = create("hybrid-vit", CLASSES, weights="none", options={"preset": "paper-003"}).net
    own = net.state_dict()
    assert {k: v.shape for k, v in own.items() if k != "pos_embed"} == {
        k: v.shape for k, v in published.items() if k != "pos_embed"
    }
    assert own["pos_embed"].shape == (1, 28 * 28 + 1, 768)  # 448 pixels; timm's has the grid of 384


def test_hub_weights_are_those_of_the_stem_or_of_the_whole_published_model():
    source = parse_source("hybrid-vit")
    assert str(published_weights(source, {"stem": "resnet50"})) == "timm:resnet50"
    assert str(published_weights(source, {"preset": "paper-003"})) == "timm:vit_base_r50_s16_384"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stem": "no_such_net"}, "timm has no such model"),
        ({"stem": "hf-hub:someone/net"}, "timm has no such model"),
        ({"stem": 5}, "needed the name"),
        ({"stem": "vit_tiny_patch16_224"}, "gives no feature maps"),
        ({"stem": COARSE}, "stride 32, needed 16"),
        ({"dim": 25}, "cannot be shared by 3 heads"),
        ({"dim": 2.5}, "needed a whole number"),
        ({"dim": True}, "needed a whole number"),
        ({"depth": 0}, "needed a number from 1"),
        ({"layer_scale": 0.0}, "needed a number from"),
        ({"mlp_ratio": "wide"}, "needed a number"),
        ({"preset": "large"}, "--set preset=large"),
        ({"pretrained": True}, "not an option of hybrid-vit"),
    ],
)
def test_options_that_mean_nothing_are_refused_in_a_sentence(options, words):
    with pytest.raises(UsageError, match=words) as caught:
        tiny(**options)
    assert caught.value.hint or "needed" in str(caught.value)


def test_a_config_from_a_file_can_ask_for_no_other_options():
    values = json.loads(tiny().config.to_json())
    values["options"]["checkpoint_path"] = "/etc/passwd"
    with pytest.raises(UsageError, match="checkpoint_path"):
        build(ClassifierConfig.from_json(json.dumps(values)))


def test_weights_that_fit_neither_stem_nor_hybrid_are_bad_input(tmp_path, stem_weights):
    state = torch.load(stem_weights, weights_only=True)
    del state["conv_stem.weight"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(BadInput, match=r"as those of the stem.*missing conv_stem\.weight"):
        tiny(tmp_path / "cut.pth")
    whole = tiny(layer_scale=None).net.state_dict()
    torch.save(whole, tmp_path / "whole.pth")
    with pytest.raises(BadInput, match=r"blocks\.0\.ls1\.gamma"):
        tiny(tmp_path / "whole.pth")
    torch.save({**whole, "pos_embed": torch.zeros(1, 12, 24)}, tmp_path / "oblong.pth")
    with pytest.raises(BadInput, match=r"pos_embed \(1, 12, 24\)"):
        tiny(tmp_path / "oblong.pth", layer_scale=None)


def test_the_head_of_a_stem_cannot_be_kept(stem_weights):
    with pytest.raises(UsageError, match="the head of the stem"):
        create("hybrid-vit", None, weights=str(stem_weights), keep_head=True, options=TINY)


def test_a_stem_without_that_stride_serves_at_its_own():
    classifier = create("hybrid-vit", CLASSES, weights="none", output_stride=32, options={**TINY, "stem": COARSE})
    assert embedding(classifier.net).feat_ratio() == 32


def test_a_transferred_head_reads_from_tokens_what_the_stems_head_read(stem_weights, monkeypatch):
    from xseg.classifier import transfer

    monkeypatch.setattr(transfer, "CERTAINTY", 0.0)
    names = [str(k) for k in range(11)]
    former = create_former("hybrid-vit", names, weights=str(stem_weights), options=TINY).eval()
    assert former.config.model == f"timm:{STEM}"
    dataset = FakeDataset(8)
    classifier = tiny(stem_weights)
    transfer_head(classifier, former, dataset, long_side=64)
    plain = create(STEM, CLASSES, weights=str(stem_weights))
    transfer_head(plain, former, dataset, long_side=64)
    features = torch.randn(5, plain.head.weight.shape[1])
    tokens = features @ classifier.net.patch_embed.proj.weight.flatten(1).T
    torch.testing.assert_close(tokens @ classifier.head.weight.T, features @ plain.head.weight.T, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(head_in_tokens(classifier.net, plain.head.weight), classifier.head.weight)


def test_a_head_of_a_whole_hybrid_is_transferred_from_the_hybrid(tmp_path):
    torch.save(tiny().net.state_dict(), tmp_path / "whole.pth")
    former = create_former("hybrid-vit", CLASSES, weights=str(tmp_path / "whole.pth"), options=TINY)
    assert former.config.model == "hybrid-vit"


def test_it_learns_on_few_images_and_resumes_exactly(tmp_path, stem_weights):
    settings = TrainSettings(
        epochs=6, batch_size=8, crop=48, resize_low=40, resize_high=48, optimizer="adamw", lr=0.003, jitter=0.0,
        flip=0.0, frozen=1,
    )  # fmt: skip
    dataset = FakeDataset(24)

    def trained(**options):
        classifier = tiny(stem_weights)
        return classifier, train_classifier(dataset, classifier, settings, **options)

    whole, result = trained()
    assert result.history[-1]["loss"] < 0.8 * result.history[0]["loss"]
    polls = iter([False] * 7 + [True])
    with pytest.raises(Stopped):
        trained(checkpoint=Checkpoint(tmp_path / "out", "run"), should_stop=lambda: next(polls))
    again, _ = trained(checkpoint=Checkpoint(tmp_path / "out", "run"))
    for key, value in whole.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[key], value), key


def test_the_training_preset_is_what_the_paper_says():
    paper = TrainSettings.paper_003()
    assert (paper.epochs, paper.lr, paper.batch_size, paper.weight_decay, paper.optimizer) == (20, 5e-3, 8, 1e-4, "sgd")
    assert (paper.crop, paper.resize_low, paper.resize_high) == (448, 448, 448)
    rates = {group.head_lr_multiplier for group in [paper.optim()]} | {paper.optim().bias_lr_multiplier}
    assert rates == {1.0}
    np.testing.assert_allclose([paper.factor(20)(step) for step in range(20)], 1 - np.arange(20) / 20)
    assert PRESETS["paper-003"]["grid"] * 16 == paper.crop
