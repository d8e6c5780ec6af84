from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.segmenter.nets import SETTINGS, mask, picture, record, samples, segmenter
from tests.segmenter.oracle_segmenter import cross_entropy, cross_entropy_gradient
from xseg.datasets.transforms import zero_padding
from xseg.segmenter.samples import NO_LABEL, Samples
from xseg.segmenter.task import Learner, SegmenterTask, pixel_loss


@pytest.fixture
def given():
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 4, generator=random)
    labels = torch.randint(NO_LABEL, 3, (2, 5, 4), generator=random)
    return logits, labels, torch.rand(2, 5, 4, generator=random)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_the_cross_entropy_of_labelled_pixels(given, weighted):
    logits, labels, weights = given
    expected = cross_entropy(logits.numpy(), labels.numpy(), weights.numpy() if weighted else None)
    assert float(pixel_loss(logits, labels, weights if weighted else None)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_unknown_pixels_have_no_gradient_and_all_others_have_one(given, weighted):
    logits, labels, weights = given
    logits.requires_grad_()
    pixel_loss(logits, labels, weights if weighted else None).backward()
    moved = logits.grad.abs().amax(1) > 0
    assert torch.equal(moved, labels != NO_LABEL)


def test_weights_of_one_change_no_bit_of_the_loss_or_its_gradient(given):
    logits, labels, _ = given
    found = []
    for weights in (None, torch.ones(labels.shape)):
        leaf = logits.clone().requires_grad_()
        loss = pixel_loss(leaf, labels, weights)
        loss.backward()
        found.append((loss.detach(), leaf.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    made = task()
    (batch,) = made.batches(range(1))
    ones = {**batch, "weights": torch.ones(batch["labels"].shape)}
    assert made.terms(ones) == made.terms(batch)
    assert torch.equal(made.loss(ones, 0)[0], made.loss(batch, 0)[0])


def test_the_gradient_is_weight_times_softmax_minus_one_hot(given):
    logits, labels, weights = (tensor.double() if tensor.is_floating_point() else tensor for tensor in given)
    logits.requires_grad_()
    pixel_loss(logits, labels, weights).backward()
    np.testing.assert_allclose(
        logits.grad.numpy(),
        cross_entropy_gradient(logits.detach().numpy(), labels.numpy(), weights.numpy()),
        rtol=1e-12, atol=1e-15,
    )  # fmt: skip
    assert torch.autograd.gradcheck(lambda values: pixel_loss(values, labels, weights), logits)


def task(**options):
    made = segmenter(norm="group").eval()
    return SegmenterTask(Learner(made, 0.0), samples(**options), SETTINGS)


def part(batch, chosen):
    return {name: tensor[chosen] for name, tensor in batch.items()}


def test_parts_of_a_batch_add_up_to_the_whole():
    made = task()
    (batch,) = made.batches(range(1))
    total = made.terms(batch)
    with torch.no_grad():
        whole, _ = made.loss(batch, 0)
        parts = [made.loss(part(batch, slice(k, k + 1)), 0, total)[0] for k in range(2)]
        net = made.module.net
        logits = net(zero_padding(net.normalise(batch["images"]), batch["valid"]))
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-5)
    assert total["pixels"] == int((batch["labels"] != NO_LABEL).sum())
    by_hand = cross_entropy(logits.numpy(), batch["labels"].numpy()) / total["pixels"]
    assert float(whole) == pytest.approx(by_hand, rel=1e-5)


def test_a_batch_without_labels_costs_nothing():
    made = task()
    (batch,) = made.batches(range(1))
    batch = {**batch, "labels": torch.full_like(batch["labels"], NO_LABEL)}
    loss, _ = made.loss(batch, 0)
    assert float(loss.detach()) == 0.0
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in made.module.parameters())


def test_padding_is_zero_after_normalisation():
    made = SegmenterTask(Learner(segmenter(), 0.0), samples(), SETTINGS)
    seen = []
    made.module.net.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    (batch,) = made.batches(range(1))
    batch["valid"][:, 2] = 10  # rows
    made.loss(batch, 0)
    assert not seen[0][:, :, 10:].any()
    assert seen[0][:, :, :10].any()


def test_rare_classes_are_drawn_more_often():
    common = [record(index, masks=mask(0)) for index in range(9)]
    made = Samples([*common, record(9, masks=mask(1))], picture, 2)
    for balance, least in ((0.0, 0.05), (1.0, 0.3)):
        balanced = SegmenterTask(Learner(segmenter(), 0.0), made, replace(SETTINGS, balance=balance, batch_size=10))
        drawn = [index for step in range(20) for index, _, _ in balanced._order.batch(step, 10)]
        share = np.mean(np.array(drawn) == 9)
        assert least < share < least + 0.3
