import pytest
import torch

from tests.heatmaps import oracle_attention as oracle
from tests.heatmaps.nets import Forwards, ask, normalised
from tests.heatmaps.test_rollout import PAIRS, POOLS, SIZES, deeper, state_of
from tests.heatmaps.vits import FAMILIES, flags, fuse, published, vit
from xseg.heatmaps import methods
from xseg.heatmaps.registry import require_served

NAMES = ["attention-grad-cam", "attention-gradient-rollout"]


def expected(classifier, images, pool, look):
    """`look(attentions, gradients, grid)` of the written-out network, question by question."""
    found = []
    for image, target in PAIRS:
        logits, attentions, grid = oracle.run(state_of(classifier), images[image], 4, 3, pool)
        slopes = oracle.gradients(logits[target], attentions)
        found.append(look([attention.detach() for attention in attentions], slopes, grid))
    return torch.stack(found)


def assert_close(found, wanted):
    torch.testing.assert_close(found, wanted, atol=1e-10 * wanted.abs().max().item(), rtol=1e-8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("family", "pool"), POOLS)
def test_grad_cam_on_attention_equals_the_written_out_network(family, pool, size):
    classifier, images = deeper(family, size), normalised(3, *size).double()
    maps = methods.create("attention-grad-cam")(classifier, ask(images, PAIRS))
    wanted = expected(classifier, images, pool, lambda a, g, grid: oracle.grad_cam(a[-1], g[-1], grid, pool))
    assert wanted.sum() > 0
    assert_close(maps, wanted)


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("family", "pool"), POOLS)
def test_gradient_rollout_equals_the_whole_matrix_of_the_written_out_network(family, pool, size, start):
    classifier, images = deeper(family, size), normalised(3, *size).double()
    maps = methods.create("attention-gradient-rollout", [f"start_layer={start}"])(classifier, ask(images, PAIRS))
    wanted = expected(classifier, images, pool, lambda a, g, grid: oracle.gradient_rollout(a, g, grid, pool, start)[0])
    assert wanted.amax((1, 2)).min() > 0
    assert_close(maps, wanted)


def test_rows_of_gradient_rollout_do_not_sum_to_one():
    classifier, images = deeper("class token", (16, 16)), normalised(3, 16, 16).double()
    logits, attentions, grid = oracle.run(state_of(classifier), images[0], 4, 3, "token")
    _, relevance = oracle.gradient_rollout(attentions, oracle.gradients(logits[1], attentions), grid, "token")
    maps = methods.create("attention-gradient-rollout")(classifier, ask(images, [(0, 1)]))
    assert (relevance.sum(1) - 1).abs().min() > 1e-3
    torch.testing.assert_close(maps[0].sum(), relevance[0, 1:].sum().detach())


def test_the_order_of_the_blocks_matters():
    # written out above as well, but a product in the wrong order is the classical mistake
    classifier, images = deeper("class token", (16, 16)), normalised(3, 16, 16).double()
    maps = methods.create("attention-gradient-rollout")(classifier, ask(images, PAIRS))
    wrong = expected(
        classifier, images, "token", lambda a, g, grid: oracle.gradient_rollout(a[::-1], g[::-1], grid, "token")[0]
    )
    assert (maps - wrong).abs().max() > 1e-3 * maps.abs().max()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_served_image_by_image_and_class_by_class(name, family):
    method, classifier, images = methods.create(name), vit(family).double(), normalised(3, 16, 16).double()
    require_served(method, classifier)
    maps = method(classifier, ask(images, PAIRS))
    assert maps.shape == (len(PAIRS), 4, 4)
    assert maps.min() >= 0
    assert maps.amax((1, 2)).median() > 0
    for (image, target), row in zip(PAIRS, maps, strict=True):
        alone = method(classifier, ask(images[image : image + 1], [(0, target)]))[0]
        torch.testing.assert_close(row, alone, atol=1e-12, rtol=1e-9)
    assert not torch.equal(maps[0], maps[2])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(40, 80), (56, 56)])
def test_grids_follow_the_image(name, size):
    maps = methods.create(name)(vit(), ask(normalised(2, *size), [(0, 0), (1, 0)]))
    assert maps.shape == (2, size[0] // 4, size[1] // 4)


@pytest.mark.parametrize("name", NAMES)
def test_one_forward_pass_and_a_backward_pass_a_round(name, monkeypatch):
    classifier, asked = vit(), []
    methods.create(name).serves(classifier)
    real = torch.autograd.grad

    def spy(outputs, inputs, *args, **kwargs):
        asked.append([leaf.is_leaf for leaf in inputs])
        return real(outputs, inputs, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", spy)
    with Forwards(classifier) as forwards:
        methods.create(name)(classifier, ask(normalised(2, 16, 16), [(i, k) for k in range(3) for i in range(2)]))
    assert forwards.count == 1
    # nothing below the first matrix is differentiated, and of Grad-CAM nothing below the last
    assert asked == [[True] if name == "attention-grad-cam" else [True, False, False]] * 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fused", [True, False])
def test_switches_of_fused_attention_are_not_touched(name, fused):
    classifier, images = fuse(vit(), fused), normalised(2, 16, 16)
    maps = methods.create(name)(classifier, ask(images, PAIRS[:2]))
    assert set(flags(classifier)) == {fused}
    torch.testing.assert_close(maps, methods.create(name)(vit(), ask(images, PAIRS[:2])), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", [*NAMES, "raw-attention", "rollout"])
def test_a_network_that_looks_away_after_an_error_is_whole(name):
    classifier = vit()
    methods.create(name).serves(classifier)

    def fail(*_):
        raise ZeroDivisionError

    handle = classifier.net.blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        methods.create(name)(classifier, ask(normalised(1, 16, 16), [(0, 0)]))
    handle.remove()
    assert all(flags(classifier))
    assert all(parameter.requires_grad for parameter in classifier.parameters())
    assert torch.is_grad_enabled()
    assert methods.create(name)(classifier, ask(normalised(1, 16, 16), [(0, 0)])).shape == (1, 4, 4)


def test_small_gains_survive_beside_the_identity():
    # where the head reads the mean of the patches, I has 1/T everywhere and would swallow them
    classifier, images = vit("mean", depth=4).double(), normalised(2, 16, 16).double()
    for parameter in classifier.net.head.parameters():
        parameter.data *= 1e-12
    double = methods.create("attention-gradient-rollout")(classifier, ask(images, PAIRS[:2][1:]))
    single = methods.create("attention-gradient-rollout")(classifier.float(), ask(images.float(), PAIRS[:2][1:]))
    assert 0 < double.max() < 1e-9
    torch.testing.assert_close(single.double(), double, atol=1e-3 * double.max().item(), rtol=0)


def test_grad_cam_on_attention_equals_the_published_one(shared, record_property):
    classifier, arrays = published(shared)
    images, wanted = torch.from_numpy(arrays["input"]).double(), torch.from_numpy(arrays["map/attn_gradcam"])
    pairs = [(0, target) for target in arrays["targets"].tolist()]
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        found = methods.create("attention-grad-cam")(classifier.to(dtype), ask(images.to(dtype), pairs)).double()
        low, high = found.amin((1, 2), keepdim=True), found.amax((1, 2), keepdim=True)
        error = ((found - low) / (high - low) - wanted).abs().max()  # the script scales to 0..1
        record_property(str(dtype), float(error))
        assert error < tolerance


def test_gradient_rollout_is_made_of_the_published_matrices_and_gradients(shared):
    classifier, arrays = published(shared)
    images = torch.from_numpy(arrays["input"]).double()
    pairs = [(0, target) for target in arrays["targets"].tolist()]
    maps = methods.create("attention-gradient-rollout")(classifier, ask(images, pairs))
    for number, row in enumerate(maps):
        attentions = [torch.from_numpy(arrays[f"attn/blocks.{b}"]) for b in range(3)]
        slopes = [torch.from_numpy(arrays[f"attn_grad/blocks.{b}"][number]) for b in range(3)]
        wanted, _ = oracle.gradient_rollout(attentions, slopes, (4, 4), "token")
        # those gradients come from a network whose last norm has an epsilon of 1e-5 instead of 1e-6
        torch.testing.assert_close(row, wanted, atol=1e-5 * wanted.max().item(), rtol=0)
