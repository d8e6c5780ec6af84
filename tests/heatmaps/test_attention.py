import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.heatmaps.nets import normalised
from tests.heatmaps.vits import FAMILIES, flags, fuse, published, vit
from xseg.heatmaps.attention import in_steps, watching
from xseg.heatmaps.layers import evaluating

SQUARE = normalised(2, 16, 16)


def watched(classifier, images, **kwargs):
    with evaluating(classifier), watching(**kwargs) as matrices:
        logits = classifier(images)
    return logits, matrices


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.randn(5, 5, generator=torch.Generator().manual_seed(1))},
        {"attn_mask": torch.eye(5).bool() | torch.ones(5, 5).tril().bool()},
    ],
)
def test_the_steps_are_what_the_fused_function_computes(kwargs):
    query, key, value = normalised(3, 4 * 5, 6).double().reshape(3, 3, 4, 5, 6)
    if "attn_mask" in kwargs and kwargs["attn_mask"].dtype != torch.bool:
        kwargs = {"attn_mask": kwargs["attn_mask"].double()}
    expected = functional.scaled_dot_product_attention(query, key, value, **kwargs)
    torch.testing.assert_close(in_steps(query, key, value, **kwargs), expected, atol=1e-12, rtol=1e-12)


def test_heads_that_share_keys_and_values():
    random = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, 5, 4, generator=random, dtype=torch.float64)
    key, value = torch.randn(2, 2, 3, 5, 4, generator=random, dtype=torch.float64)
    expected = functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    torch.testing.assert_close(in_steps(query, key, value, enable_gqa=True), expected, atol=1e-12, rtol=1e-12)


def test_dropout_is_refused():
    with pytest.raises(ValueError, match="evaluation mode"):
        in_steps(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), dropout_p=0.1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fused", [True, False])
def test_logits_stay_flags_stay_and_rows_sum_to_one(family, fused):
    classifier = fuse(vit(family), fused)
    before, expected = flags(classifier), classifier(SQUARE)
    with evaluating(classifier), watching() as matrices:
        found = classifier(SQUARE)
        assert flags(classifier) == before
    assert flags(classifier) == before
    assert set(before) == {fused} or family == "cait"  # whose talking heads have no such switch
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert len(matrices) == {"cait": 5, "attention pooling": 4}.get(family, 3)
    for matrix in matrices:
        assert not matrix.requires_grad
        torch.testing.assert_close(matrix.sum(-1), torch.ones_like(matrix[..., 0]))


@pytest.mark.parametrize("family", ["class token", "beit", "eva"])
def test_fused_and_unfused_networks_show_the_same_matrices(family):
    one, other = (watched(fuse(vit(family).double(), fused), SQUARE.double())[1] for fused in (True, False))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


def test_gradients_reach_each_matrix_and_nothing_below_the_first_is_kept():
    classifier = vit().double()
    logits, matrices = watched(classifier, SQUARE.double(), graph=True)
    assert matrices[0].is_leaf
    slopes = torch.autograd.grad(logits[:, 1].sum(), matrices)
    step = torch.randn(matrices[1][0, 1, 2].shape, generator=torch.Generator().manual_seed(0)).double() * 1e-6
    for sign in (1, -1):
        moved = []

        def move(matrix, sign=sign, moved=moved):
            moved.append(matrix)
            if len(moved) == 2:
                matrix.data[0, 1, 2] += sign * step  # what the network goes on with
            return matrix

        found = watched(classifier, SQUARE.double(), keep=move)[0][0, 1]
        assert (found - logits[0, 1]).item() == pytest.approx(sign * (slopes[1][0, 1, 2] @ step).item(), rel=1e-3)


def test_the_first_matrices_are_passed_over_and_stay_fused(monkeypatch):
    classifier, calls = vit(), []
    _, matrices = watched(classifier, SQUARE)

    def counted(*args, **kwargs):
        calls.append(args)
        return in_steps(*args, **kwargs)

    monkeypatch.setattr("xseg.heatmaps.attention.in_steps", counted)
    _, last = watched(classifier, SQUARE, first=2)
    assert (len(last), len(calls)) == (1, 1)
    torch.testing.assert_close(last[0], matrices[2], atol=1e-5, rtol=1e-4)
    found, none = watched(classifier, SQUARE, first=3)
    assert (len(none), len(calls)) == (0, 1)
    assert torch.equal(found, classifier(SQUARE))


def test_what_is_kept_of_a_matrix_can_be_chosen():
    classifier = vit()
    whole, means = (watched(classifier, SQUARE, keep=keep)[1] for keep in (lambda m: m, lambda m: m.mean(1)))
    for matrix, mean in zip(whole, means, strict=True):
        torch.testing.assert_close(matrix.mean(1), mean)


def test_watching_ends_with_its_block_even_after_an_error():
    classifier = vit()
    with pytest.raises(ZeroDivisionError), watching(graph=True) as matrices:
        classifier(SQUARE[:, :, : math.floor(1 / 0)])
    classifier(SQUARE)
    assert matrices == []
    assert torch.is_grad_enabled()


def test_other_softmaxes_are_no_attention():
    class Odd(nn.Module):
        def forward(self, x):
            return x.softmax(1).softmax(2) + functional.softmax(x.flatten(2), -1).sum() + torch.softmax(x, dim=1)

    with watching() as matrices:
        Odd()(SQUARE)
    assert matrices == []
    with watching() as matrices:
        torch.softmax(SQUARE, dim=3)
        functional.softmax(SQUARE, -1)
        nn.Softmax(dim=-1)(SQUARE)
    assert len(matrices) == 3


def test_matrices_equal_the_published_ones(shared, record_property):
    classifier, arrays = published(shared)
    images = torch.from_numpy(arrays["input"]).double()
    logits, matrices = watched(classifier, images, graph=True)
    torch.testing.assert_close(logits.detach(), torch.from_numpy(arrays["logits_vit_new"]), atol=1e-12, rtol=1e-12)
    errors = []
    for number, target in enumerate(arrays["targets"].tolist()):
        slopes = torch.autograd.grad(logits[0, target], matrices, retain_graph=True)
        for b, (matrix, slope) in enumerate(zip(matrices, slopes, strict=True)):
            errors.append((matrix[0].detach() - torch.from_numpy(arrays[f"attn/blocks.{b}"])).abs().max())
            expected = torch.from_numpy(arrays[f"attn_grad/blocks.{b}"][number])
            # the published gradient was taken through the network whose last norm has another epsilon
            errors.append((slope[0] - expected).abs().max() / expected.abs().max())
    record_property("error", float(max(errors)))
    assert max(errors) < 1e-5
