"""Blending a new head from an old one."""

import numpy as np
import pytest
import torch

from tests.classifier.nets import MODEL, FakeDataset
from xseg.classifier import transfer
from xseg.classifier.model import create
from xseg.classifier.samples import label_matrix
from xseg.classifier.transfer import blended_head, log_odds, start_from_frequencies, transfer_head
from xseg.errors import UsageError


def oracle(old, probabilities, labels):
    """The formula of the docstring, class by class in plain float64."""
    centred = old - old.mean(0)
    rows = []
    for c in range(labels.shape[1]):
        plus = probabilities[labels[:, c] == 1].mean(0)
        minus = probabilities[labels[:, c] == 0].mean(0)
        weights = [max(p - m, 0) if p / (p + m + 1e-12) > 0.75 else 0 for p, m in zip(plus, minus, strict=True)]
        order = np.argsort(weights)[::-1][:60]
        kept = np.zeros(len(weights))
        kept[order] = np.array(weights)[order]
        rows.append(kept / max(kept.sum(), 1e-12) @ centred)
    return np.array(rows)


def test_blending_follows_the_formula():
    rng = np.random.default_rng(0)
    old, labels = rng.normal(size=(90, 7)), (rng.random((40, 3)) < 0.4).astype(int)
    scores = rng.normal(size=(40, 90)) + 3 * labels[:, rng.integers(0, 3, 90)]
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    made = blended_head(torch.tensor(old), torch.tensor(probabilities), torch.tensor(labels))
    np.testing.assert_allclose(made.numpy(), oracle(old, probabilities, labels), atol=1e-12)


def test_a_class_that_is_one_of_the_old_ones_gets_its_weights():
    old = torch.eye(4).double()
    labels = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]])
    probabilities = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]).double()
    torch.testing.assert_close(blended_head(old, probabilities, labels), (old - 0.25)[[0, 2]])


def test_a_class_without_images_starts_at_zero_and_unknown_labels_count_on_neither_side():
    old, probabilities = torch.randn(5, 3), torch.rand(4, 5).softmax(1)
    labels = torch.tensor([[0, 1], [0, 0], [255, 255], [0, 0]])
    made = blended_head(old, probabilities, labels)
    assert not made[0].any()
    without = torch.tensor([0, 1, 3])
    torch.testing.assert_close(made, blended_head(old, probabilities[without], labels[without]))


def test_the_transferred_head_depends_on_no_worker_and_no_batch(monkeypatch):
    monkeypatch.setattr(transfer, "CERTAINTY", 0.0)  # a random network is certain of nothing
    dataset = FakeDataset(6)
    former = create(MODEL, [f"old{k}" for k in range(8)], weights="none", activation="softmax").eval()
    heads = []
    for workers, batch_size in ((0, 1), (2, 4)):
        made = create(MODEL, dataset.classes, weights="none", head_bias=False)
        transfer_head(made, former, dataset, long_side=32, batch_size=batch_size, workers=workers)
        heads.append(made.head.weight.detach().clone())
    torch.testing.assert_close(heads[0], heads[1], atol=1e-6, rtol=0)
    assert heads[0].any()


def test_the_bias_by_class_frequencies_is_their_log_odds_and_never_infinite():
    labels = torch.tensor([[1, 0, 255], [1, 0, 1], [0, 0, 1], [1, 0, 255]])
    shares = np.array([(3 + 1) / (4 + 2), (0 + 1) / (4 + 2), (2 + 1) / (2 + 2)])
    np.testing.assert_allclose(log_odds(labels).numpy(), np.log(shares / (1 - shares)), rtol=1e-12)


def test_a_head_that_starts_from_frequencies_predicts_them():
    dataset, classifier = FakeDataset(40), create(MODEL, ("red", "green", "blue"), weights="none")
    weight = classifier.head.weight.clone()
    start_from_frequencies(classifier, dataset)
    assert torch.equal(classifier.head.weight, weight)
    present = label_matrix(dataset).sum(0)
    expected = (present + 1) / (len(dataset) + 2)
    np.testing.assert_allclose(classifier.head.bias.detach().sigmoid().numpy(), expected, rtol=1e-5)
    with pytest.raises(UsageError, match="a sigmoid head with a bias"):
        start_from_frequencies(create(MODEL, ("red", "green", "blue"), weights="none", head_bias=False), dataset)
