import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tests.affinity import oracle_pairs
from tests.affinity.gather import gathered_affinity
from xseg.affinity.loss import PairCounts, affinities, affinity_loss, pair_affinity
from xseg.affinity.pairs import PairLabels, half_offsets, pair_labels, windows


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def draw_labels(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).choice([0, 0, 1, 2, 255], shape).astype(np.uint8))


def in_windows(values, radius):
    return [values[:, index, *first].flatten(1) for index, first, _ in windows(*values.shape[-2:], radius)]


class LargestTensor(TorchDispatchMode):
    """Counts the elements of the largest tensor any operation inside the block returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 5),
    height=st.integers(1, 7),
    width=st.integers(2, 7),
    radius=st.sampled_from([1.5, 3, 5]),
    seed=st.integers(0, 99),
)
def test_loss_equals_the_one_summed_pair_by_pair(batch, channels, height, width, radius, seed):
    features, labels = draw(batch, channels, height, width, seed=seed), draw_labels(batch, height, width, seed=seed)
    found = affinity_loss(pair_affinity(features, radius), pair_labels(labels, radius))
    background, foreground, negative, total = oracle_pairs.loss(features.numpy(), labels.numpy(), radius)
    np.testing.assert_allclose(
        [found.background, found.foreground, found.negative, found.total],
        [background, foreground, negative, total],
        rtol=1e-12,
        atol=1e-14,
    )


@pytest.mark.parametrize("cut", [1, 2])
def test_the_losses_of_the_parts_of_a_batch_add_up(cut):
    features, labels = draw(3, 4, 6, 7), draw_labels(3, 6, 7)
    pairs = pair_labels(labels)
    whole = affinity_loss(pair_affinity(features), pairs)
    parts = [
        affinity_loss(pair_affinity(features[part]), PairLabels(*(mask[part] for mask in pairs)), PairCounts.of(pairs))
        for part in (slice(0, cut), slice(cut, 3))
    ]
    for one, other, expected in zip(*parts, whole, strict=True):
        torch.testing.assert_close(one + other, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-7), (torch.float64, 1e-15)])
@pytest.mark.parametrize("channels", [3, 448])
def test_affinities_and_their_gradient_equal_the_gathered_ones(channels, dtype, tolerance):
    sliced = draw(2, channels, 13, 11, dtype=dtype).requires_grad_()
    gathered = sliced.detach().clone().requires_grad_()
    ours, theirs = in_windows(pair_affinity(sliced), 5), gathered_affinity(gathered, half_offsets(5))
    for here, there in zip(ours, theirs, strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=tolerance)
    for values in (ours, theirs):
        weights = draw(sum(value.shape[1] for value in values), seed=3, dtype=dtype)
        (torch.cat(values, 1) * weights).sum().backward()
    deviation = (sliced.grad - gathered.grad).abs().max() / gathered.grad.abs().max()
    assert deviation <= 10 * tolerance


def test_work_done_in_blocks_of_channels_changes_nothing():
    features = draw(2, 7, 12, 9).requires_grad_()
    labels = pair_labels(draw_labels(2, 12, 9))
    affinity_loss(pair_affinity(features), labels).total.backward()
    whole = features.grad.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xseg.affinity.loss._BLOCK_CPU", 12 * 9 * 8 * 3)
        features.grad = None
        affinity_loss(pair_affinity(features), labels).total.backward()
    torch.testing.assert_close(features.grad, whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("border", ["all", "psa"])
def test_gradient_of_the_loss_equals_finite_differences(border):
    features = draw(2, 2, 4, 6).requires_grad_()
    labels = pair_labels(draw_labels(2, 4, 6), 3, border)
    assert all(mask.any() for mask in labels)
    assert torch.autograd.gradcheck(lambda f: affinity_loss(pair_affinity(f, 3, border), labels).total, features)


def test_equal_features_have_affinity_one_and_no_gradient():
    features = torch.ones(1, 4, 6, 6, requires_grad=True)
    affinity = pair_affinity(features)
    affinity_loss(affinity, pair_labels(draw_labels(1, 6, 6))).total.backward()
    assert torch.all(affinity == 1)
    assert torch.all(features.grad == 0)


def test_loss_is_independent_of_class_numbers_and_of_unknown_nodes():
    features, labels = draw(1, 4, 8, 8), draw_labels(1, 8, 8)
    renamed = torch.where(labels == 1, 7, labels)
    value = affinity_loss(pair_affinity(features), pair_labels(labels)).total
    assert torch.equal(affinity_loss(pair_affinity(features), pair_labels(renamed)).total, value)
    moved = torch.where((labels == 255)[:, None], 9.0, features)
    torch.testing.assert_close(
        affinity_loss(pair_affinity(moved), pair_labels(labels)).total, value, rtol=1e-13, atol=0
    )


def test_labels_all_unknown_give_zero_loss_and_a_finite_gradient():
    features = draw(1, 3, 6, 6).requires_grad_()
    loss = affinity_loss(pair_affinity(features), pair_labels(torch.full((1, 6, 6), 255, dtype=torch.uint8))).total
    loss.backward()
    assert loss == 0
    assert torch.all(features.grad == 0)


def test_half_precision_features_are_compared_in_single_precision():
    features = draw(1, 8, 6, 6, dtype=torch.float16).requires_grad_()
    affinity = pair_affinity(features)
    assert affinity.dtype == torch.float32
    torch.testing.assert_close(affinity, pair_affinity(features.detach().float()))
    affinity.sum().backward()
    assert features.grad.dtype == torch.float16


def test_no_tensor_grows_with_channels_times_offsets():
    features = draw(2, 64, 20, 20, dtype=torch.float32).requires_grad_()
    labels = pair_labels(draw_labels(2, 20, 20))
    with LargestTensor() as ours:
        affinity_loss(pair_affinity(features), labels).total.backward()
    with LargestTensor() as gathered:
        stacked = torch.nn.functional.unfold(features, 5).view(2, 64, 25, -1)  # what holding all pairs at once means
        (stacked - stacked[:, :, :1]).abs().mean(1).sum().backward()
    assert ours.elements <= features.numel()
    assert gathered.elements > 10 * ours.elements


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="features"):
        pair_affinity(torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="features"):
        affinities(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="background"):
        affinity_loss(pair_affinity(torch.zeros(1, 3, 4, 4)), pair_labels(torch.zeros(1, 4, 5, dtype=torch.uint8)))


@pytest.mark.parametrize("fixture", ["psa_rw_20x24", "psa_rw_9x11"])
def test_affinities_reproduce_the_published_pairs(shared, fixture):
    with np.load(shared(f"reference/fixtures/{fixture}.npz")) as file:
        features, expected = torch.from_numpy(file["features"]), file["aff_pairs"]
    _, height, width = features.shape
    found = affinities(features, 5, "psa")
    np.testing.assert_allclose(found[:, : height - 4, 4 : width - 4].flatten(1), expected, rtol=1e-13)
    assert int((found > 0).sum()) == expected.size


def test_affinities_for_the_walk_are_zero_only_where_there_is_no_pair():
    found = affinities(draw(4, 6, 9))
    there = torch.zeros_like(found, dtype=torch.bool)
    for index, first, _ in windows(6, 9, 5):
        there[index, *first] = True
    assert torch.equal(found > 0, there)
    assert not found.requires_grad


@pytest.mark.gpu
def test_cuda_gives_the_same_loss_and_gradient():
    features, labels = draw(3, 40, 28, 31, dtype=torch.float32), draw_labels(3, 28, 31)
    results = []
    for device in ("cpu", "cuda"):
        leaf = features.to(device).requires_grad_()
        loss = affinity_loss(pair_affinity(leaf), pair_labels(labels.to(device))).total
        loss.backward()
        results.append((loss.detach().cpu(), leaf.grad.cpu()))
    torch.testing.assert_close(*[result[0] for result in results], rtol=1e-5, atol=0)
    torch.testing.assert_close(*[result[1] for result in results], rtol=1e-4, atol=1e-8)
