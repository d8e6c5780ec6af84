import numpy as np
import pytest
import torch

from tests.heatmaps import oracle_attention as oracle
from tests.heatmaps.nets import Forwards, ask, normalised, pooled
from tests.heatmaps.vits import FAMILIES, flags, published, vit
from xseg.classifier.model import create
from xseg.errors import UsageError
from xseg.heatmaps import methods
from xseg.heatmaps.registry import require_served
from xseg.heatmaps.rollout import without_smallest

PAIRS = [(1, 1), (0, 3), (1, 0), (2, 2), (1, 3)]
POOLS = [("class token", "token"), ("mean", "avg"), ("mean without class token", "avg")]
SIZES = [(16, 16), (20, 40)]


def state_of(classifier):
    return {key: value.double() for key, value in classifier.net.state_dict().items()}


def deeper(family, size):
    """Depth 4, three heads, a grid of the image's own."""
    return vit(family, depth=4, img_size=size).double()


def expected(classifier, images, pool, look):
    """`look(attentions, grid)` of the written-out network, image by image."""
    found = []
    for image in images:
        _, attentions, grid = oracle.run(state_of(classifier), image, 4, 3, pool)
        found.append(look([attention.detach() for attention in attentions], grid))
    return torch.stack(found)


def assert_same(maps, wanted):
    """Each question's map is its image's."""
    torch.testing.assert_close(maps, wanted[[image for image, _ in PAIRS]], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("family", "pool"), POOLS)
def test_raw_attention_equals_the_written_out_network(family, pool, size):
    classifier, images = deeper(family, size), normalised(3, *size).double()
    maps = methods.create("raw-attention")(classifier, ask(images, PAIRS))
    assert_same(maps, expected(classifier, images, pool, lambda found, grid: oracle.raw(found, grid, pool)))


@pytest.mark.parametrize("start", [0, 1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("family", "pool"), POOLS)
def test_rollout_equals_the_whole_product_of_the_written_out_network(family, pool, size, start):
    classifier, images = deeper(family, size), normalised(3, *size).double()
    maps = methods.create("rollout", [f"start_layer={start}"])(classifier, ask(images, PAIRS))
    assert_same(
        maps, expected(classifier, images, pool, lambda found, grid: oracle.rollout(found, grid, pool, start)[0])
    )


@pytest.mark.parametrize("share", [0, 0.5, 0.9])
@pytest.mark.parametrize("heads", ["mean", "max", "min"])
def test_the_variant_of_vit_explain_equals_its_loop_for_every_image_of_a_batch(heads, share):
    classifier, images = deeper("class token", (20, 40)), normalised(3, 20, 40).double()
    settings = ["variant=vit-explain", f"heads={heads}", f"discard_ratio={share}"]
    maps = methods.create("rollout", settings)(classifier, ask(images, PAIRS))
    assert_same(
        maps, expected(classifier, images, "token", lambda found, grid: oracle.vit_explain(found, grid, share, heads))
    )


def test_the_defaults_are_those_of_the_scripts():
    classifier, query = vit(depth=4), ask(normalised(3, 16, 16), PAIRS)
    plain, explained = (methods.create("rollout", settings) for settings in ([], ["variant=vit-explain"]))
    assert torch.equal(plain(classifier, query), methods.create("rollout", ["start_layer=1"])(classifier, query))
    settings = ["variant=vit-explain", "start_layer=0", "discard_ratio=0.9", "heads=mean"]
    assert torch.equal(explained(classifier, query), methods.create("rollout", settings)(classifier, query))
    for other in (["start_layer=0"], ["discard_ratio=0.5"], ["heads=max"]):
        changed = methods.create("rollout", other)(classifier, query)
        assert (changed - plain(classifier, query)).abs().max() > 1e-4 * changed.abs().max()


def test_rows_of_the_published_rollout_sum_to_one_and_those_divided_along_the_wrong_axis_do_not():
    classifier, images = deeper("mean without class token", (20, 40)), normalised(3, 20, 40).double()
    maps = methods.create("rollout")(classifier, ask(images, PAIRS))
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(len(PAIRS)).double())
    wrong = methods.create("rollout", ["variant=vit-explain"])(classifier, ask(images, PAIRS))
    assert (wrong.sum((1, 2)) - 1).abs().min() > 1e-6
    # a class token keeps a part for itself
    token = methods.create("rollout")(deeper("class token", (20, 40)), ask(images, PAIRS)).sum((1, 2))
    assert token.max() < 1


def test_the_smallest_entries_go_by_image_and_the_first_one_stays():
    random = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(0))
    random[:, 0, 0] = 0.001  # among the smallest
    found = without_smallest(random, 0.6)
    for matrix, kept in zip(random.numpy(), found.numpy(), strict=True):
        threshold = np.sort(matrix, axis=None)[15]
        expected = np.where(matrix >= threshold, matrix, 0)
        expected[0, 0] = matrix[0, 0]
        np.testing.assert_array_equal(kept, expected)
    assert torch.equal(without_smallest(random, 0.01), random)


@pytest.mark.parametrize("name", ["raw-attention", "rollout", "rollout variant=vit-explain"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_served_image_by_image_and_alike_for_all_classes(name, family):
    name, *settings = name.split()
    method, classifier, images = methods.create(name, settings), vit(family).double(), normalised(3, 16, 16).double()
    assert not method.class_specific
    require_served(method, classifier)
    maps = method(classifier, ask(images, PAIRS))
    assert maps.shape == (len(PAIRS), 4, 4)
    assert maps.min() >= 0
    assert maps.std((1, 2)).min() > 0
    for (image, target), row in zip(PAIRS, maps, strict=True):
        alone = method(classifier, ask(images[image : image + 1], [(0, target)]))[0]
        torch.testing.assert_close(row, alone, atol=1e-12, rtol=1e-9)
    assert torch.equal(maps[0], maps[2])
    assert not torch.equal(maps[0], maps[1])


@pytest.mark.parametrize("size", [(16, 16), (40, 80), (56, 56)])
@pytest.mark.parametrize("family", ["class token", "registers", "distilled", "eva with class token"])
def test_grids_follow_the_image_and_positions_are_interpolated(family, size):
    classifier, images = vit(family), normalised(2, *size)
    for name in ("raw-attention", "rollout"):
        assert methods.create(name)(classifier, ask(images, [(0, 0), (1, 0)])).shape == (2, size[0] // 4, size[1] // 4)


@pytest.mark.parametrize("name", ["raw-attention", "rollout"])
def test_one_forward_pass_whatever_the_classes_and_switches_stay(name):
    classifier = vit()
    before = flags(classifier)
    methods.create(name).serves(classifier)
    with Forwards(classifier) as forwards:
        methods.create(name)(classifier, ask(normalised(2, 16, 16), [(i, k) for k in range(4) for i in range(2)]))
    assert forwards.count == 1
    assert flags(classifier) == before
    assert all(before)


@pytest.mark.parametrize("name", ["raw-attention", "rollout", "attention-grad-cam", "attention-gradient-rollout"])
def test_networks_without_attention_over_all_tokens_are_refused_with_a_way_out(name):
    method = methods.create(name)
    with pytest.raises(UsageError, match=r"computes no attention .*; use grad-cam, integrated-gradients or input-x"):
        require_served(method, pooled())
    with pytest.raises(UsageError, match="computes no attention"):
        method(pooled(), ask(normalised(1), [(0, 0)]))
    swin = create("timm:swin_tiny_patch4_window7_224", ("a", "b"), weights="none", input_size=(56, 56)).eval()
    with pytest.raises(
        UsageError, match=r"attention looks at windows \(4 for 1 image\), not at all tokens; use grad-cam"
    ):
        require_served(method, swin)
    require_served(methods.create("grad-cam"), swin)


@pytest.mark.parametrize("name", ["rollout", "attention-gradient-rollout"])
def test_blocks_that_are_not_there_are_refused(name):
    with pytest.raises(UsageError, match=r"start_layer is 3 and the network has 3 blocks; use --set start_layer=2"):
        require_served(methods.create(name, ["start_layer=3"]), vit())
    with pytest.raises(UsageError, match="start_layer is 3"):
        methods.create(name, ["start_layer=3"])(vit(), ask(normalised(1, 16, 16), [(0, 0)]))
    with pytest.raises(UsageError, match="start_layer=-1"):
        methods.create(name, ["start_layer=-1"])


@pytest.mark.parametrize("share", ["1", "-0.1"])
def test_shares_that_leave_nothing_are_refused(share):
    with pytest.raises(UsageError, match="discard_ratio"):
        methods.create("rollout", [f"discard_ratio={share}"])


@pytest.mark.parametrize(
    ("key", "name"),
    [("rollout_start0", "rollout start_layer=0"), ("rollout_start1", "rollout"), ("last_layer_attn", "raw-attention")],
)
def test_maps_equal_the_published_ones(shared, record_property, key, name):
    name, *settings = name.split()
    classifier, arrays = published(shared)
    images, wanted = torch.from_numpy(arrays["input"]).double(), torch.from_numpy(arrays[f"map/{key}"])
    wanted = wanted if wanted.ndim == 3 else wanted.expand(2, 4, 4)  # one map for both targets, or stored twice
    pairs = [(0, target) for target in arrays["targets"].tolist()]
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        found = methods.create(name, settings)(classifier.to(dtype), ask(images.to(dtype), pairs))
        error = ((found.double() - wanted).abs().amax((1, 2)) / wanted.abs().amax((1, 2))).max()
        record_property(str(dtype), float(error))
        assert error < tolerance
