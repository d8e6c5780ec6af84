from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.classifier.nets import CLASSES, FakeDataset
from tests.classifier.test_train import SETTINGS
from xseg.classifier.model import create
from xseg.classifier.samples import whole_images
from xseg.classifier.sides import enough, nearest, refused_steps, side_steps, takes_one_size
from xseg.classifier.train import train_classifier
from xseg.classifier.validation import answers_of
from xseg.errors import UsageError
from xseg.heatmaps.views import Views, fixed_size, views_for

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("model", "steps", "one_size"),
    [
        ("test_vit", (16, 16), False),
        ("test_vit2", (16, 16), False),
        ("test_resnet", (1, 1), False),
        ("eva02_tiny_patch14_224", (14, 14), False),
        ("pit_ti_224", (1, 1), True),
        ("cait_xxs24_224", (16, 16), True),
    ],
)
def test_what_networks_take(model, steps, one_size):
    classifier = create(f"timm:{model}", ("a", "b"), weights="none")
    assert side_steps(classifier.net) == refused_steps(classifier.net) == steps
    assert takes_one_size(classifier.net) is one_size
    assert fixed_size(classifier) == (classifier.config.input_size if one_size else None)


def test_networks_that_pad_refuse_no_side_but_still_see_whole_patches_best():
    classifier = create("timm:test_vit2", ("a", "b"), weights="none")
    classifier.net.patch_embed.dynamic_img_pad = True
    assert side_steps(classifier.net) == (16, 16)
    assert refused_steps(classifier.net) == (1, 1)
    with torch.no_grad():
        assert classifier.eval()(torch.zeros(1, 3, 33, 47)).shape == (1, 2)


@pytest.mark.parametrize(
    ("side", "step", "next_one", "not_below"),
    [(37, 16, 32, 48), (40, 16, 48, 48), (39.9, 16, 32, None), (3, 16, 16, 16), (37, 1, 37, 37), (48, 16, 48, 48)],
)
def test_multiples(side, step, next_one, not_below):
    assert nearest(side, step) == next_one
    if not_below is not None:
        assert enough(side, step) == not_below


def test_views_are_the_next_multiples_and_none_is_too_small():
    views = Views(steps=(16, 14), smallest=40)
    assert views.shape((375, 500), 1.0) == (368, 504)
    assert views.shape((375, 500), 0.5) == (192, 252)  # 187.5 is 188, nearer to 192 than to 176
    assert views.shape((10, 10), 1.0) == (48, 42)
    assert Views(steps=(16, 16), size=224).shape((375, 500), 1.0) == (176, 224)
    classifier = create("timm:test_vit2", ("a", "b"), weights="none")
    assert views_for(classifier, Views()).steps == (16, 16)


def test_whole_images_are_made_of_whole_patches():
    dataset = FakeDataset(6)
    seen = [images.shape[2:] for _, images in whole_images(dataset, 50, batch_size=2, workers=0, steps=(16, 16))]
    assert {side for shape in seen for side in shape} <= {16, 32, 48}
    classifier = create("timm:test_vit2", CLASSES, weights="none").eval()
    rows = list(answers_of(dataset, classifier, classifier, device=CPU, long_side=50, batch_size=2, workers=0))
    assert sorted(index for indices, _ in rows for index in indices) == list(range(6))
    assert all(np.isfinite(logits).all() for _, logits in rows)


def test_networks_of_one_size_are_asked_with_it():
    classifier = create("timm:pit_ti_224", CLASSES, weights="none").eval()
    rows = list(answers_of(FakeDataset(2), classifier, classifier, device=CPU, long_side=50, batch_size=2, workers=0))
    assert [logits.shape for _, logits in rows] == [(2, len(CLASSES))]


def test_crops_that_a_transformer_cannot_take_are_refused_with_one_that_it_can():
    classifier = create("timm:test_vit2", CLASSES, weights="none")
    with pytest.raises(UsageError, match="--crop 50: timm:test_vit2 takes sides divisible by 16") as told:
        train_classifier(FakeDataset(4), classifier, replace(SETTINGS, crop=50))
    assert told.value.hint == "--crop 48"
    train_classifier(FakeDataset(4), classifier, replace(SETTINGS, crop=48, epochs=1, batch_size=4))
    only = create("timm:pit_ti_224", CLASSES, weights="none")
    with pytest.raises(UsageError, match="--crop 448: timm:pit_ti_224 takes images of 224x224 only") as told:
        train_classifier(FakeDataset(4), only, replace(SETTINGS, crop=448))
    assert told.value.hint == "--crop 224"


def test_input_sizes_that_it_cannot_take_are_refused():
    with pytest.raises(UsageError, match="takes sides divisible by 16, not 100") as told:
        create("timm:test_vit2", ("a",), weights="none", input_size=(160, 100))
    assert told.value.hint == "use 96"
