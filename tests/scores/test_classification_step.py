import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.metrics import average_precision_score

from tests.classifier.nets import MODEL
from tests.scores.conftest import runtime
from xseg.artifacts.weights import read_weights, write_weights
from xseg.classifier.settings import TrainSettings
from xseg.classifier.step import ModelOptions, load_classifier, train
from xseg.classifier.validation import validate
from xseg.errors import BadInput, CannotCreate, Status, Stopped, UsageError
from xseg.scores.classification_step import ClassificationOptions, evaluate_classification
from xseg.scores.table import print_table

CPU = torch.device("cpu")


def score(made, *names, dataset=None, told=None, **options):
    chosen = ClassificationOptions(**{"replicates": 20, **options})
    return evaluate_classification(list(names), dataset or made.dataset, chosen, told or runtime())


def changed(source, path, **config):
    """The same weights with another config."""
    header, _, text, state = read_weights(source, "classifier")
    write_weights(path, header, json.dumps({**json.loads(text), **config}), state)
    return str(path)


@pytest.fixture(scope="module")
def softmax(made, tmp_path_factory):
    return changed(made.cls, tmp_path_factory.mktemp("softmax") / "softmax.h5", activation="softmax")


@pytest.fixture(scope="module")
def singles(made):
    """The images that hold one class."""
    return replace(made.dataset, items=tuple(item for item in made.dataset.items if len(item.labels) == 1))


def by_hand(made, path):
    """Logits of every image, one after the other, and labels."""
    _, _, classifier = load_classifier(path, CPU)
    rows = []
    with torch.no_grad():
        for item in made.dataset.items:
            image = made.dataset.read_image(item)
            rows.append(classifier(classifier.normalise(torch.from_numpy(image).permute(2, 0, 1)[None]))[0].numpy())
    return np.stack(rows), np.stack([made.dataset.label_vector(item) for item in made.dataset.items])


def test_the_result_is_about_what_the_network_says_to_whole_images(made):
    result, rows, status = score(made, made.cls, size=0)
    assert status == Status.OK
    assert rows[0][0] == result["input"] == made.cls
    logits, labels = by_hand(made, made.cls)
    expected = [average_precision_score(labels[:, c], logits[:, c]) for c in range(3)]
    assert list(result["per_class_ap"].values()) == pytest.approx(expected)
    assert result["map"] == pytest.approx(np.mean(expected))
    _, _, classifier = load_classifier(made.cls, CPU)
    assert result["map"] == pytest.approx(validate(made.dataset, classifier, device=CPU, long_side=None).mean)
    probability = 1 / (1 + np.exp(-logits.astype(float)))
    assert result["calibration"]["brier"] == pytest.approx(np.mean((probability - labels) ** 2), abs=1e-6)
    assert (result["protocol"], result["split"], result["missing"]) == ("classification", "all", 0)
    assert (result["images"], result["activation"], result["size"]) == (10, "sigmoid", None)
    assert result["per_class_images"] == dict(zip(made.dataset.classes, (labels == 1).sum(0).tolist(), strict=True))
    json.dumps(result, allow_nan=False)


def test_images_are_looked_at_as_at_the_end_of_the_training(made, tmp_path):
    settings = TrainSettings(epochs=1, batch_size=6, crop=32, resize_low=32, resize_high=40, validation_size=48)
    told = runtime(tmp_path / "trained.h5")
    trained = train(made.dataset, ModelOptions(MODEL, "none"), settings, made.dataset, told)
    result, _, _ = score(made, str(tmp_path / "trained.h5"))
    assert (result["size"], result["map"]) == (48, pytest.approx(trained.validation.mean))
    untrained, _, _ = score(made, made.cls)
    assert untrained["size"] == 224  # what its config says the weights expect
    assert score(made, made.cls, size=40)[0]["size"] == 40


@pytest.mark.parametrize("batch", [2, 3, 10])
def test_the_batch_size_does_not_matter(made, batch):
    one, _, _ = score(made, made.cls, size=0)
    several, _, _ = score(made, made.cls, size=0, told=runtime(batch_size=batch))
    assert several["per_class_ap"] == pytest.approx(one["per_class_ap"])
    for name in ("ece", "brier", "nll"):
        assert several["calibration"][name] == pytest.approx(one["calibration"][name], abs=1e-6)


def test_a_softmax_classifier_has_an_accuracy_over_images_with_one_class(made, softmax, singles):
    result, _, _ = score(made, softmax, size=0)
    logits, labels = by_hand(made, softmax)
    alone = (labels == 1).sum(axis=1) == 1
    hits = logits[alone].argmax(axis=1) == labels[alone].argmax(axis=1)
    assert result["accuracy"]["images"] == alone.sum() == len(singles)
    assert result["accuracy"]["top1"] == pytest.approx(hits.mean())
    assert (result["decisions"], result["calibration"]["predictions"]) == (None, alone.sum())
    assert score(made, softmax, size=0, dataset=singles)[0]["accuracy"] == result["accuracy"]


def test_several_classifiers_stand_side_by_side_in_json_and_table(made, softmax):
    result, rows, _ = score(made, made.cls, made.other, softmax, size=0, threshold=0.3)
    assert [run["input"] for run in result["runs"]] == [made.cls, made.other, softmax]
    assert [bool(run["accuracy"]) for run in result["runs"]] == [False, False, True]
    assert result["runs"][0]["decisions"]["threshold"] == 0.3
    out = io.StringIO()
    print_table([("[red]cls", rows[0][1]), *rows[1:]], Console(file=out, width=200))
    for word in ("[red]cls", "top-1 accuracy", "F1, macro", "calibration error", made.dataset.classes[0]):
        assert word in out.getvalue()
    for run in result["runs"]:
        assert f"{run['map']:.3f}" in out.getvalue()


def test_classes_that_the_data_set_does_not_have_are_unknown(made):
    fewer = replace(
        made.dataset,
        classes=made.dataset.classes[1:],
        items=tuple(replace(item, labels=tuple(k - 1 for k in item.labels if k > 1)) for item in made.dataset.items),
    )
    every, _, _ = score(made, made.cls, size=0)
    found, _, _ = score(made, made.cls, size=0, dataset=fewer)
    first, *others = made.dataset.classes
    assert found["per_class_ap"] == {first: None, **{name: every["per_class_ap"][name] for name in others}}
    assert found["unknown_labels"] == 10
    assert found["calibration"]["predictions"] == 20


def test_images_without_labels_are_left_out_and_counted(made):
    items = tuple(replace(item, labels=None) if k < 2 else item for k, item in enumerate(made.dataset.items))
    found, _, _ = score(made, made.cls, size=0, dataset=replace(made.dataset, items=items))
    expected, _, _ = score(made, made.cls, size=0, dataset=replace(made.dataset, items=made.dataset.items[2:]))
    assert (found["images_without_labels"], found["images"]) == (2, 8)
    assert {**found, "images_without_labels": 0} == expected


def test_an_image_that_cannot_be_read_fails_alone(made):
    items = tuple(replace(item, path="nowhere.jpg") if k == 1 else item for k, item in enumerate(made.dataset.items))
    told = runtime()
    found, _, status = score(made, made.cls, size=0, dataset=replace(made.dataset, items=items), told=told)
    assert (found["images"], found["missing"], status) == (9, 1, Status.SOME_FAILED)
    assert any(note.startswith(f"failed: {items[1].id}") for note in told.reporter.notes)


def test_the_artifact_is_told_again_and_not_replaced_by_another(made, tmp_path):
    path = tmp_path / "scores.h5"
    first, _, _ = score(made, made.cls, size=0, told=runtime(path))
    again, rows, status = score(made, made.cls, size=0, told=runtime(path))
    assert (again, status, rows) == (first, Status.OK, [(made.cls, again)])
    for options in ({"threshold": 0.4}, {"size": 40}, {"replicates": 30}):
        with pytest.raises(CannotCreate, match="another run"):
            score(made, made.cls, told=runtime(path), **{"size": 0, **options})


def test_bad_inputs(made, softmax):
    with pytest.raises(UsageError, match="read more than once"):
        score(made, "-")
    with pytest.raises(UsageError, match="--threshold 1"):
        score(made, made.cls, threshold=1.0)
    with pytest.raises(UsageError, match="--threshold with a softmax classifier"):
        score(made, softmax, threshold=0.5)
    with pytest.raises(BadInput, match="holds heatmaps, this step needs classifier") as told:
        score(made, made.cls, made.cam)
    assert "train-cls" in told.value.hint
    renamed = replace(made.dataset, classes=("x", *made.dataset.classes[1:]))
    with pytest.raises(BadInput, match="class 'x' is unknown to the classifier"):
        score(made, made.cls, dataset=renamed)
    bare = replace(made.dataset, items=tuple(replace(item, labels=None) for item in made.dataset.items))
    with pytest.raises(BadInput, match="image-level labels are needed"):
        score(made, made.cls, dataset=bare)


def test_a_network_of_one_size_gets_that(made, tmp_path):
    train(made.dataset, ModelOptions("timm:pit_ti_224", "none"), None, None, runtime(tmp_path / "pit.h5"))
    few = made.dataset.limited(4)
    found, _, _ = score(made, str(tmp_path / "pit.h5"), dataset=few)
    assert found["size"] == [224, 224]
    with pytest.raises(UsageError, match="takes images of 224x224 only"):
        score(made, str(tmp_path / "pit.h5"), dataset=few, size=160)


def test_a_vision_transformer_gets_whole_patches(made, tmp_path):
    train(made.dataset, ModelOptions("timm:test_vit3", "none"), None, None, runtime(tmp_path / "vit.h5"))
    for size, seen in ((None, 160), (100, 100)):
        found, _, _ = score(made, str(tmp_path / "vit.h5"), dataset=made.dataset.limited(4), size=size)
        assert found["size"] == seen


def test_a_signal_ends_it_and_nothing_is_written(made, tmp_path):
    told = runtime(tmp_path / "scores.h5")
    told.stop.signal = 15
    with pytest.raises(Stopped):
        score(made, made.cls, size=0, told=told)
    assert list(tmp_path.iterdir()) == []
