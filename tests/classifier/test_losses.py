import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.classifier.oracle_losses import loss as oracle
from xseg.classifier.losses import label_loss, loss_weight

KINDS = ["soft-margin", "bce", "cross-entropy"]


def labels_for(kind, random, rows, columns):
    if kind == "cross-entropy":
        labels = np.eye(columns, dtype=np.uint8)[random.integers(0, columns, rows)]
        labels[random.random(rows) < 0.2] = 255
        return labels
    return random.choice(np.array([0, 1, 255], np.uint8), (rows, columns), p=[0.5, 0.3, 0.2])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), rows=st.integers(1, 6), columns=st.integers(1, 5), smoothing=st.sampled_from([0, 0.1])
)
def test_losses_equal_their_definition(kind, seed, rows, columns, smoothing):
    random = np.random.default_rng(seed)
    logits, labels = random.normal(0, 4, (rows, columns)), labels_for(kind, random, rows, columns)
    expected = oracle(logits.tolist(), labels.tolist(), kind, smoothing)
    found = label_loss(torch.tensor(logits, dtype=torch.float32), torch.from_numpy(labels), kind, smoothing)
    assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_weighted_halves_make_up_the_whole_batch(kind):
    random = np.random.default_rng(1)
    logits = torch.from_numpy(random.normal(size=(9, 4)))
    labels = torch.from_numpy(labels_for(kind, random, 9, 4))
    weights = [loss_weight(part, kind) for part in (labels[:4], labels[4:])]
    halves = label_loss(logits[:4], labels[:4], kind), label_loss(logits[4:], labels[4:], kind)
    whole = (halves[0] * weights[0] + halves[1] * weights[1]) / sum(weights)
    torch.testing.assert_close(whole, label_loss(logits, labels, kind))


def test_without_unknown_labels_the_loss_is_torchs_own():
    logits, labels = torch.randn(5, 7), torch.randint(0, 2, (5, 7), dtype=torch.uint8)
    expected = torch.nn.functional.multilabel_soft_margin_loss(logits, labels.float())
    torch.testing.assert_close(label_loss(logits, labels, "soft-margin"), expected)
    torch.testing.assert_close(label_loss(logits, labels, "bce"), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_labels_have_neither_loss_nor_gradient(kind):
    logits = torch.randn(3, 4, requires_grad=True)
    found = label_loss(logits, torch.full((3, 4), 255, dtype=torch.uint8), kind)
    found.backward()
    assert float(found.detach()) == 0
    assert torch.count_nonzero(logits.grad) == 0


def test_large_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    found = label_loss(logits, torch.tensor([[0, 1]], dtype=torch.uint8))
    found.backward()
    assert float(found.detach()) == pytest.approx(1e4)
    assert torch.isfinite(logits.grad).all()
