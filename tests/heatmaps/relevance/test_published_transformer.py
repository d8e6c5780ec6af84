"""The published code of Chefer et al. (fixtures B): relevance inside a ViT, and the maps made of it."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.heatmaps.nets import ask
from xseg.classifier import Classifier, ClassifierConfig
from xseg.device import torchvision_ready
from xseg.heatmaps import methods
from xseg.heatmaps.relevance.method import one_hot
from xseg.heatmaps.relevance.tape import record
from xseg.heatmaps.relevance.transformer import TransformerWalker, attention_matrices

torchvision_ready()

from timm.models.vision_transformer import VisionTransformer  # noqa: E402

MAPS = {
    "transformer_attribution_start0": ("transformer-attribution", ["start_layer=0"]),
    "transformer_attribution_start1": ("transformer-attribution", []),
    "cam_rollout_start0": ("transformer-attribution", ["start_layer=0", "gradient=false"]),
    "full_lrp": ("vit-lrp", []),
    "full_ours": ("vit-lrp", ["variant=ours"]),
    "last_layer_lrp": ("partial-lrp", []),
    "last_layer_lrp_ablation": ("partial-lrp", ["gradient=true"]),
    "last_layer_ours": ("partial-lrp", ["variant=ours"]),
    "last_layer_ours_ablation": ("partial-lrp", ["variant=ours", "gradient=true"]),
}
# Maps of the published code that other methods make.
OTHERS = {"rollout_start0", "rollout_start1", "last_layer_attn", "attn_gradcam"}


class PublishedAttention(nn.Module):
    """Scales products of queries and keys; timm scales the queries, and the 1e-9 in denominators weighs more."""

    def __init__(self, attention):
        super().__init__()
        self.qkv, self.proj, self.heads = attention.qkv, attention.proj, attention.num_heads

    def forward(self, x, attn_mask=None, is_causal=False):
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        products = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
        return self.proj((products.softmax(-1) @ value).transpose(1, 2).flatten(2))


@pytest.fixture(scope="module", params=["published", "timm"])
def given(request, shared):
    """The classifier, the arrays of the file, and how close the two are to be in float64."""
    with np.load(shared("reference/fixtures/chefer_vit.npz"), allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    net = VisionTransformer(img_size=16, patch_size=4, embed_dim=24, depth=3, num_heads=3, num_classes=5)
    net.load_state_dict({key[3:]: torch.from_numpy(value) for key, value in arrays.items() if key.startswith("sd/")})
    if request.param == "published":
        for block in net.blocks:
            block.attn = PublishedAttention(block.attn)
    net.norm.eps = 1e-5  # as in the two published networks that pass relevance
    classes = tuple(f"class{k}" for k in range(5))
    config = ClassifierConfig("tests:vit", classes, layer="patch_embed.proj", head="head", input_size=(16, 16))
    return Classifier(config, net).double().eval(), arrays, 1e-9 if request.param == "published" else 1e-7


def close(found, expected, tolerance, record_property):
    """Largest deviation relative to the largest value, of each target's array on its own."""
    axes = tuple(range(1, expected.ndim))
    error = (np.abs(found - expected).max(axes) / np.abs(expected).max(axes)).max()
    record_property("error", float(error))
    assert error < tolerance, error


def maps_of(given, key, dtype):
    classifier, arrays, *_ = given
    method, settings = MAPS[key]
    images = torch.from_numpy(arrays["input"]).to(dtype)
    pairs = [(0, target) for target in arrays["targets"].tolist()]
    found = methods.create(method, settings)(classifier.to(dtype), ask(images, pairs))
    assert found.dtype == dtype
    return found.double().numpy()


def test_no_map_is_left_out(given):
    stored = {key[4:] for key in given[1] if key.startswith("map/")}
    assert stored == MAPS.keys() | OTHERS


def test_the_network_is_the_published_one(given, record_property):
    classifier, arrays, *_ = given
    with torch.no_grad():
        logits = classifier.double()(torch.from_numpy(arrays["input"]).double())
    close(logits.numpy(), arrays["logits"], 1e-13, record_property)


@pytest.mark.parametrize("key", MAPS)
def test_maps_equal_the_published_ones(given, record_property, key):
    close(maps_of(given, key, torch.float64), given[1][f"map/{key}"], given[2], record_property)


@pytest.mark.parametrize("key", MAPS)
def test_maps_in_single_precision_equal_the_published_ones(given, record_property, key):
    # what the published code itself loses in single precision, where that is more
    tolerance = max(1e-4, 10 * float(given[1][f"f32dev/{key}"]))
    close(maps_of(given, key, torch.float32), given[1][f"map/{key}"], tolerance, record_property)


@pytest.mark.parametrize(("stored", "variant"), [("ours", "ours"), ("orig", "lrp")])
def test_relevance_inside_equals_the_published_one(given, record_property, stored, variant):
    classifier, arrays, *_ = given
    classifier.double()
    tape = record(classifier, torch.from_numpy(arrays["input"]).double().requires_grad_(), graph=True)
    matrices = attention_matrices(tape)
    blocks = [
        next(step.sources[0] for step in tape.steps if step.path == f"blocks.{block}.norm1") for block in range(3)
    ]
    target = torch.from_numpy(arrays["targets"])[:, None]
    with torch.no_grad():
        walker = TransformerWalker(tape, variant, [*blocks, *matrices])
        relevance = walker.reach(one_hot(target, 5, tape.logits))
    for block in range(3):
        found = relevance[blocks[block]].numpy()
        close(found, arrays[f"rel/{stored}/blocks.{block}"], given[2], record_property)
        found = relevance[matrices[block]][:, 0].numpy()
        close(found, arrays[f"attn_rel/{stored}/blocks.{block}"], given[2], record_property)
        if variant == "ours":
            np.testing.assert_allclose(relevance[blocks[block]].sum((1, 2, 3)).numpy(), 1, rtol=1e-6)
    gradients = tape.gradients(tape.logits[0, target[:, 0]].unbind(), matrices, create_graph=False)
    for block, number in enumerate(matrices):
        found = tape.values[number].detach()[0].numpy()[None]
        close(found, arrays[f"attn/blocks.{block}"][None], 1e-12, record_property)
        close(gradients[number][:, 0].numpy(), arrays[f"attn_grad/blocks.{block}"], 1e-12, record_property)
