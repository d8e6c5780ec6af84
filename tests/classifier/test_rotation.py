from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.classifier.nets import MODEL
from xseg.classifier import create
from xseg.classifier.rotation import ROTATIONS, RotationTask, rotations, squares, validate_rotations
from xseg.classifier.settings import TrainSettings
from xseg.classifier.train import train_classifier
from xseg.datasets import open_dataset
from xseg.errors import Stopped, UsageError
from xseg.training.checkpoint import Checkpoint

CPU = torch.device("cpu")
SETTINGS = TrainSettings(
    epochs=2, batch_size=4, crop=24, resize_low=24, resize_high=32, lr=0.05, validation_size=24, jitter=0.0
)


@pytest.fixture
def data(tmp_path):
    """Pictures without labels: noise that is bright at the top, in several shapes."""
    random = np.random.default_rng(0)
    for k, (height, width) in enumerate([(32, 48), (48, 32), (40, 40), (32, 64)] * 4):
        pixels = random.integers(0, 100, (height, width, 3))
        pixels[: height // 2] += 140
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{k}.png")
    return open_dataset(tmp_path, format="images")


def made(seed=0):
    return create(MODEL, ROTATIONS, weights="none", activation="softmax", seed=seed, options={"dropout": 0.0})


def test_quarter_turns_go_against_the_clock():
    image = torch.arange(9).view(1, 1, 3, 3)
    turned, quarters = rotations(image)
    assert quarters.tolist() == [0, 1, 2, 3]
    for k, one in enumerate(turned[:, 0].numpy()):
        assert np.array_equal(one, np.rot90(image[0, 0].numpy(), k))
    many, quarters = rotations(torch.randn(5, 3, 4, 4))
    assert many.shape == (20, 3, 4, 4)
    assert quarters.tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5


def test_the_shape_of_a_picture_does_not_tell_how_it_was_turned(data):
    made = squares(data)
    for item, plain in zip(made.items, data.items, strict=True):
        image, whole = made.read_image(item), data.read_image(plain)
        height, width = whole.shape[:2]
        side = min(height, width)
        assert image.shape == (side, side, 3)
        top, left = (height - side) // 2, (width - side) // 2
        assert np.array_equal(image, whole[top : top + side, left : left + side])
    assert (made.label_vector(made.items[0]) == 255).all()


def test_the_loss_is_the_mean_over_images_and_turns_and_of_parts_their_sum():
    classifier = made().eval()
    batch = {"images": torch.randint(0, 256, (3, 3, 24, 24), dtype=torch.uint8),
             "valid": torch.tensor([[0, 0, 24, 24]] * 3)}  # fmt: skip
    task = RotationTask(classifier, lambda steps: iter(()), 0.0)
    with torch.no_grad():
        loss, values = task.loss(batch, 0)
        images = classifier.normalise(batch["images"])
        logits = torch.stack([classifier(torch.rot90(images, k, (2, 3))) for k in range(4)]).double()
        expected = -torch.stack([logits[k].log_softmax(1)[:, k] for k in range(4)]).mean()
        right = torch.stack([(logits[k].argmax(1) == k).double() for k in range(4)]).mean()
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)
        assert float(values["accuracy"]) == pytest.approx(float(right))
        total = task.terms(batch)
        parts = [{name: tensor[rows] for name, tensor in batch.items()} for rows in (slice(0, 2), slice(2, 3))]
        assert sum(float(task.loss(part, 0, total)[0]) for part in parts) == pytest.approx(float(expected), rel=1e-5)


def test_turned_pictures_are_learned_to_be_recognised(data):
    classifier = made()
    before = validate_rotations(data, classifier, device=CPU, long_side=24)
    settings = TrainSettings(
        epochs=40, batch_size=8, crop=24, resize_low=24, resize_high=24, lr=0.1, head_lr_multiplier=1.0, flip=0.5,
        validation_size=24, jitter=0.0,
    )  # fmt: skip
    result = train_classifier(data, classifier, settings, validation=data, objective="rotation")
    assert result.validation.mean > 0.9 > before.mean
    assert result.validation.per_rotation.shape == (4,)
    assert result.validation.images == len(data)
    assert result.classes == ROTATIONS
    assert result.history[-1]["accuracy"] > result.history[0]["accuracy"]


def test_accuracy_is_that_of_each_picture_turned_by_hand(data):
    classifier = made(seed=3).eval()
    found = validate_rotations(data, classifier, device=CPU, long_side=None, batch_size=5)
    right = np.zeros(4)
    square = squares(data)
    with torch.no_grad():
        for item in square.items:
            for k in range(4):
                pixels = torch.from_numpy(np.rot90(square.read_image(item), k).copy()).permute(2, 0, 1)[None]
                right[k] += int(classifier(classifier.normalise(pixels)).argmax()) == k
    np.testing.assert_allclose(found.per_rotation, right / len(data))


def test_a_transformer_sees_pictures_of_whole_patches(data):
    transformer = create("timm:test_vit2", ROTATIONS, weights="none", activation="softmax")
    assert validate_rotations(data, transformer, device=CPU, long_side=50).images == len(data)


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(data, tmp_path):
    whole = made()
    train_classifier(data, whole, SETTINGS, objective="rotation")
    polled = iter([False] * 3 + [True])
    checkpoint = Checkpoint(tmp_path / "rot.h5", "run")
    with pytest.raises(Stopped):
        train_classifier(
            data, made(), SETTINGS, objective="rotation", checkpoint=checkpoint, should_stop=lambda: next(polled)
        )
    again = made()
    train_classifier(data, again, SETTINGS, objective="rotation", checkpoint=Checkpoint(tmp_path / "rot.h5", "run"))
    state = again.net.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in whole.net.state_dict().items())


def test_balance_needs_labels(data):
    with pytest.raises(UsageError, match="no labels are looked at"):
        train_classifier(data, made(), replace(SETTINGS, balance=1.0), objective="rotation")
