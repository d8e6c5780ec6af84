from collections import Counter

import pytest
import torch

from tests.classifier.nets import MODEL
from xseg.artifacts.weights import read_weights
from xseg.classifier.samples import permute_labels
from xseg.classifier.settings import TrainSettings
from xseg.classifier.step import ModelOptions, train
from xseg.datasets import open_dataset
from xseg.datasets.synthetic import write_synthetic
from xseg.runs.runtime import Runtime
from xseg.runs.target import Target


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("labels") / "data"
    write_synthetic(directory, images=30, classes=3, size=40, seed=1)
    return open_dataset(directory)


def test_label_vectors_change_places_and_nothing_else_does(dataset):
    permuted = permute_labels(dataset, seed=0)
    assert Counter(item.labels for item in permuted.items) == Counter(item.labels for item in dataset.items)
    assert [(item.id, item.path, item.mask) for item in permuted.items] == [
        (item.id, item.path, item.mask) for item in dataset.items
    ]
    moved = sum(one.labels != other.labels for one, other in zip(permuted.items, dataset.items, strict=True))
    assert moved > 10


def test_the_seed_decides(dataset):
    labels = [[item.labels for item in permute_labels(dataset, seed).items] for seed in (0, 0, 1)]
    assert labels[0] == labels[1] != labels[2]


def test_training_learns_permuted_labels_and_validates_on_true_ones(dataset, tmp_path):
    trained = {}
    for name, data, random_labels in (
        ("asked", dataset, True),
        ("by-hand", permute_labels(dataset, 0), False),
        ("true", dataset, False),
    ):
        runtime = Runtime(target=Target(path=tmp_path / f"{name}.h5"), device="cpu", workers=0)
        settings = TrainSettings(epochs=2, batch_size=6, crop=32, resize_low=32, resize_high=40, validation_size=0)
        result = train(data, ModelOptions(MODEL, "none"), settings, dataset, runtime, random_labels=random_labels)
        header, _, _, state = read_weights(str(tmp_path / f"{name}.h5"), "classifier")
        trained[name] = header, state, result.validation.average_precision.tolist()
    (asked, state, precision), (_, same, expected), (plain, other, _) = trained.values()
    assert all(torch.equal(state[key], same[key]) for key in state)
    assert precision == expected
    assert any(not torch.equal(state[key], other[key]) for key in state)
    assert asked.params["permute_labels"] is True
    assert "permute_labels" not in plain.params
    assert asked.parents == plain.parents
    assert asked.run != plain.run
