"""Relevance through transformers: equal to a derivation on its own, alike in any batch, no further than needed."""

import copy
import re

import pytest
import torch
from torch import nn

from tests.heatmaps.nets import ask, normalised, pooled, wrap
from tests.heatmaps.relevance.oracle_transformer import Oracle
from tests.heatmaps.relevance.test_division import Doubled
from tests.heatmaps.relevance.transformers import SERVED, transformer
from xseg.errors import UsageError
from xseg.heatmaps import methods
from xseg.heatmaps.relevance.method import one_hot
from xseg.heatmaps.relevance.tape import record
from xseg.heatmaps.relevance.transformer import TransformerWalker, attention_matrices
from xseg.heatmaps.tokens import readers_of

NAMES = ("transformer-attribution", "partial-lrp", "vit-lrp")
PAIRS = [(0, 1), (1, 2), (0, 3), (2, 1)]


def drawn(*shape):
    """Between 0 and 1, always the same."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def walked(classifier, images, target, variant="ours"):
    """The tape, and relevance of every attention matrix and of what each block reads."""
    tape = record(classifier, images)
    inputs = [next(s.sources[0] for s in tape.steps if s.path == f"blocks.{block}.norm1") for block in range(3)]
    matrices = attention_matrices(tape)
    walker = TransformerWalker(tape, variant, [*inputs, *matrices])
    with torch.no_grad():
        found = walker.reach(one_hot(torch.tensor([[target] * len(images)]), 4, tape.logits))
    return tape, [found[number][0] for number in matrices], [found[number][0] for number in inputs]


@pytest.mark.parametrize("variant", ["ours", "lrp"])
@pytest.mark.parametrize("family", ["vit", "mean"])
def test_every_map_equals_one_derived_on_its_own(record_property, family, variant):
    classifier, images = transformer(family), normalised(3, 20, 28).double()
    asked = {
        "transformer-attribution": lambda oracle, k: oracle.attribution(k, 1),
        "transformer-attribution start_layer=0": lambda oracle, k: oracle.attribution(k, 0),
        "transformer-attribution start_layer=2 gradient=false": lambda oracle, k: oracle.attribution(k, 2, False),
        "partial-lrp": lambda oracle, k: oracle.partial(k),
        "vit-lrp": lambda oracle, k: oracle.explain(k)[2],
    }
    oracles, errors = [Oracle(classifier.net, image, variant == "ours") for image in images], []
    for name, derive in asked.items():
        method, *settings = name.split()
        maps = methods.create(method, [*settings, f"variant={variant}"])(classifier, ask(images, PAIRS))
        for found, (image, target) in zip(maps, PAIRS, strict=True):
            expected = derive(oracles[image], target).detach()
            assert found.shape == expected.shape
            assert expected.abs().max() > 0
            errors.append(((found - expected).abs().max() / expected.abs().max()).item())
    record_property("error", max(errors))
    assert max(errors) < 1e-9, errors


@pytest.mark.parametrize("variant", ["ours", "lrp"])
def test_relevance_inside_equals_one_derived_on_its_own(variant):
    classifier, images = transformer("mean"), normalised(2, 24, 16).double()
    _, matrices, inputs = walked(classifier, images, 2, variant)
    for number, image in enumerate(images):
        of_weights, of_inputs, _ = Oracle(classifier.net, image, variant == "ours").explain(2)
        for found, expected in zip([*matrices, *inputs], [*of_weights, *of_inputs], strict=True):
            limit = 1e-9 * expected.abs().max().item()
            torch.testing.assert_close(found[number], expected.detach(), atol=limit, rtol=0)


@pytest.mark.parametrize("family", ["vit", "registers", "query and key norms", "distilled"])
def test_ours_hands_all_relevance_down_to_the_first_block_and_lrp_does_not(family):
    classifier, images = transformer(family), normalised(3, 24, 24).double()
    _, _, inputs = walked(classifier, images, 1)
    for each in inputs:
        torch.testing.assert_close(each.sum((1, 2)), torch.ones(3, dtype=torch.float64), rtol=1e-5, atol=0)
    _, _, inputs = walked(classifier, images, 1, "lrp")
    assert (inputs[0].sum((1, 2)) - 1).abs().min() > 0.1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", SERVED)
def test_each_family_is_served_and_each_question_answered_as_alone(family, name):
    classifier, images = transformer(family), normalised(3, 24, 24).double()
    images[1:] *= 30
    method = methods.create(name)
    assert method.serves(classifier) is None
    maps = method(classifier, ask(images, PAIRS))
    assert torch.isfinite(maps).all()
    assert maps.abs().amax((1, 2)).max() > 0
    for found, (image, target) in zip(maps, PAIRS, strict=True):
        (alone,) = method(classifier, ask(images[image : image + 1], [(0, target)]))
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-8 * alone.abs().max().item())


def test_what_the_head_reads_is_what_is_read():
    read = {family: readers_of(transformer(family)) for family in ("vit", "registers", "distilled", "mean")}
    assert [(r.prefix, r.read, r.patches) for r in read.values()] == [
        (1, (0,), False),
        (4, (0,), False),
        (2, (0, 1), False),
        (1, (), True),
    ]


def test_the_first_block_takes_part_only_where_it_is_asked_for():
    classifier, images = transformer(), normalised(1, 24, 24).double()
    first, default, last = (
        methods.create("transformer-attribution", settings)(classifier, ask(images, [(0, 1)]))
        for settings in (["start_layer=0"], [], ["start_layer=2"])
    )
    assert (first - default).abs().max() > 1e-3 * default.abs().max()
    assert (last - default).abs().max() > 1e-3 * default.abs().max()
    assert methods.get("transformer-attribution")().start_layer == 1


def test_rows_of_the_product_are_not_normalised():
    classifier, images = transformer(), normalised(1, 24, 24).double().requires_grad_()
    method = methods.create("transformer-attribution")
    walker = method.walker(classifier, record(classifier, images, graph=True))
    with torch.no_grad():
        matrices = walker.evidence(torch.tensor([[1]]), True)
    product = torch.eye(37, dtype=torch.float64)
    for matrix in matrices:
        product = (torch.eye(37, dtype=torch.float64) + matrix[0, 0]) @ product
    rows = product.sum(1)
    assert rows.min() >= 1
    assert rows.max() > 1.01
    (found,) = method(classifier, ask(images.detach(), [(0, 1)]))
    torch.testing.assert_close(found.flatten(), product[0, 1:])  # normalised rows would be smaller


def test_a_head_that_averages_patches_finds_no_identity_in_the_product():
    classifier, images = transformer("mean"), normalised(1, 24, 24).double()
    (found,) = methods.create("transformer-attribution")(classifier, ask(images, [(0, 1)]))
    assert found.min() < 0.2 * found.max()  # with I each patch would have another 1 / 36


def test_a_sum_of_equal_branches_gives_each_half_of_what_arrives_at_each_image():
    classifier, images = wrap(Doubled(), layer="conv").double(), normalised(3, 8, 8).double()
    images[1:] *= 100
    for variant in ("ours", "lrp"):
        walker = TransformerWalker(record(classifier, images), variant)
        (step,) = (step for step in walker.tape.steps if step.kind == "sum")
        arriving = drawn(2, *walker.tape.value(step.target).shape)
        with torch.no_grad():
            first, second = walker._through(step, arriving)
        torch.testing.assert_close(first, second, rtol=0, atol=0)
        torch.testing.assert_close(first, arriving / 2, rtol=1e-4, atol=0)


class Sum(nn.Module):
    """Two linear layers' outputs meet in a sum."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = x.flatten(1)[:, :6]
        return self.fc(self.a(x) + self.b(x))


def test_sums_are_scaled_by_the_size_of_sums_and_not_of_entries():
    classifier, images = wrap(Sum(), layer="a", seed=3).double(), normalised(2, 8, 8).double()
    walker = TransformerWalker(record(classifier, images), "ours")
    (step,) = (step for step in walker.tape.steps if step.kind == "sum")
    a, b = (walker.tape.value(source) for source in step.sources)
    arriving = drawn(1, 2, 4)
    with torch.no_grad():
        found = walker._through(step, arriving)
    for image in range(2):
        r = arriving[0, image]
        parts = [(x[image] / (a + b)[image] * r).detach() for x in (a, b)]
        size = sum(abs(part.sum().item()) for part in parts)
        for part, each in zip(parts, found, strict=True):
            share = abs(part.sum().item()) / size * r.sum().item()
            torch.testing.assert_close(each[0, image], part / part.sum() * share, rtol=1e-6, atol=1e-9)
        assert sum(part.abs().sum() for part in parts) > 1.1 * size  # absolute values of entries say something else


def test_both_factors_of_a_product_get_half():
    classifier, images = transformer(), normalised(2, 24, 24).double()
    tape = record(classifier, images)
    walker = TransformerWalker(tape, "ours")
    steps = [step for step in tape.steps if step.kind == "matmul"]
    assert len(steps) == 6
    for step in steps:
        arriving = drawn(1, *tape.value(step.target).shape)
        with torch.no_grad():
            parts = walker._through(step, arriving)
        for part in parts:
            torch.testing.assert_close(part.sum((2, 3, 4)), arriving.sum((2, 3, 4)) / 2, rtol=1e-5, atol=1e-6)


class Place(nn.Module):
    """Tokens to which `added` is added."""

    def __init__(self, added):
        super().__init__()
        self.added, self.fc = nn.Parameter(added), nn.Linear(3, 4)

    def forward(self, x):
        return self.fc((x.flatten(2).mT + self.added).mean(1))


@pytest.mark.parametrize("tells", [True, False])
def test_position_embeddings_have_a_share_and_biases_have_none(tells):
    classifier = wrap(Place(torch.zeros(1, 64 if tells else 1, 3)), layer="fc").double()
    walker = TransformerWalker(record(classifier, normalised(2, 8, 8).double()), "lrp")
    (step,) = (step for step in walker.tape.steps if step.kind == "constant")
    x, y = walker.source(step), walker.value(step)
    arriving = drawn(1, 2, 64, 3)
    with torch.no_grad():
        (found,) = walker._through(step, arriving)
    torch.testing.assert_close(found, arriving * x / y if tells else arriving, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["transformer-attribution", "partial-lrp"])
def test_no_step_below_the_first_matrix_is_passed(monkeypatch, name):
    passed, original = [], TransformerWalker.affine

    def affine(self, step, layer, r):
        passed.append(step.path)
        return original(self, step, layer, r)

    monkeypatch.setattr(TransformerWalker, "affine", affine)
    classifier = transformer("hybrid")
    methods.create(name)(classifier, ask(normalised(1, 24, 24).double(), [(0, 1)]))
    block = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    last = {"head", *(f"blocks.2.{layer}" for layer in block)}
    expected = last - {"blocks.2.attn.qkv"} if name == "partial-lrp" else last | {f"blocks.1.{x}" for x in block[1:]}
    assert set(passed) == expected


def test_what_lies_below_needs_no_rule_and_the_way_to_the_pixels_does():
    classifier = transformer("hybrid")
    classifier.net.patch_embed.backbone.square = True
    images = normalised(1, 24, 24).double()
    for name in ("transformer-attribution", "partial-lrp"):
        assert methods.create(name).serves(classifier) is None
        assert methods.create(name)(classifier, ask(images, [(0, 1)])).shape == (1, 6, 6)
    refusal = methods.create("vit-lrp").serves(classifier)
    assert refusal.startswith("no relevance rule for patch_embed.backbone (Stem: pow); use ")
    with pytest.raises(UsageError, match=r"no relevance rule for patch_embed.backbone \(Stem: pow\)"):
        methods.create("vit-lrp")(classifier, ask(images, [(0, 1)]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("swin", r"its attention looks at windows \(16 for 1 image\), not at all tokens"),
        ("pvt", "its blocks look at different tokens "),
    ],
)
def test_other_transformers_are_refused_with_methods_that_serve_them(family, reason, name):
    classifier = transformer(family)
    refusal = methods.create(name).serves(classifier)
    assert refusal.endswith(" integrated-gradients or input-x-gradient")
    assert "attention-gradient-rollout" not in refusal
    assert re.match(reason, refusal)
    with pytest.raises(UsageError, match=reason):
        methods.create(name)(classifier, ask(normalised(1, 24, 24).double(), [(0, 1)]))


def test_an_attention_that_pools_is_passed_only_where_it_is_all_that_is_looked_at():
    classifier = transformer("pooled by attention")
    assert methods.create("partial-lrp").serves(classifier) is None
    for name in ("transformer-attribution", "vit-lrp"):
        refusal = methods.create(name).serves(classifier)
        assert refusal.startswith("no relevance rule for attn_pool (AttentionPoolLatent: matmul); use ")
        assert "attention-gradient-rollout" in refusal


@pytest.mark.parametrize("name", NAMES)
def test_a_network_without_attention_is_refused(name):
    refusal = methods.create(name).serves(pooled())
    assert "no attention" in refusal
    assert refusal.endswith("; use grad-cam, integrated-gradients or input-x-gradient")
    with pytest.raises(UsageError, match="no attention"):
        methods.create(name)(pooled(), ask(normalised(1), [(0, 1)]))


@pytest.mark.parametrize("name", ["lrp", "clrp", "sglrp", "rap", "agf"])
def test_methods_of_convolutional_networks_name_those_of_transformers(name):
    refusal = methods.create(name).serves(transformer("registers"))
    assert refusal.startswith("no relevance rule for blocks.2.attn (Attention: ")
    assert refusal.endswith("; use transformer-attribution or vit-lrp")
    refusal = methods.create(name).serves(transformer("swin"))
    assert refusal.endswith("; use grad-cam, integrated-gradients or input-x-gradient")


def test_a_block_that_is_not_there_is_refused():
    refusal = methods.create("transformer-attribution", ["start_layer=3"]).serves(transformer())
    assert refusal.startswith("--set start_layer=3: the last of its 3 blocks with attention is 2; use ")
    assert methods.create("transformer-attribution", ["start_layer=2"]).serves(transformer()) is None
    with pytest.raises(UsageError, match="start_layer=-1: needs a block, counted from 0"):
        methods.create("transformer-attribution", ["start_layer=-1"])
    with pytest.raises(UsageError, match="variant=theirs: no such choice"):
        methods.create("vit-lrp", ["variant=theirs"])


@pytest.mark.parametrize("name", NAMES)
def test_fused_attention_is_left_switched_on(name):
    classifier = transformer()
    for block in classifier.net.blocks:
        block.attn.fused_attn = True
    fused = methods.create(name)(classifier, ask(normalised(1, 24, 24).double(), [(0, 1)]))
    assert all(block.attn.fused_attn for block in classifier.net.blocks)
    for block in classifier.net.blocks:
        block.attn.fused_attn = False
    in_steps = methods.create(name)(classifier, ask(normalised(1, 24, 24).double(), [(0, 1)]))
    torch.testing.assert_close(fused, in_steps, rtol=0, atol=1e-12 * fused.abs().max().item())


@pytest.mark.parametrize("name", NAMES)
def test_double_precision_is_that_of_the_network_doubled(name):
    classifier, images = transformer().float(), normalised(2, 24, 24)
    found = methods.create(name, ["precision=double"])(classifier, ask(images, PAIRS[:2]))
    assert found.dtype == next(classifier.parameters()).dtype == torch.float32
    single = methods.create(name)(classifier, ask(images, PAIRS[:2]))
    doubled = methods.create(name)(copy.deepcopy(classifier).double(), ask(images.double(), PAIRS[:2]))
    size = doubled.abs().amax((1, 2))
    assert ((found - doubled).abs().amax((1, 2)) / size).max() < 1e-6
    assert ((single - doubled).abs().amax((1, 2)) / size).max() > 1e-6
    with pytest.raises(UsageError, match="precision=double: the maps are those of a copy; double the network instead"):
        methods.create(name, ["precision=double"])(classifier, ask(images, PAIRS[:2], create_graph=True))
