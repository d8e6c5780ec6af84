"""A watermark gives a class away; guidance makes a classifier look at the objects again (docs/recipes)."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from xseg.classifier.model import Classifier, create
from xseg.classifier.settings import TrainSettings
from xseg.classifier.train import train_classifier
from xseg.classifier.validation import validate
from xseg.datasets import open_dataset
from xseg.guided.masks import Regions
from xseg.guided.network import with_heatmap
from xseg.guided.settings import GuidedSettings
from xseg.guided.train import train_guided
from xseg.heatmaps import explain_images, methods

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes"
NETWORK, SIDE = "timm:test_efficientnet", 64


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("watermark", RECIPES / "watermark.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    root = tmp_path_factory.mktemp("right") / "data"
    root.mkdir()
    recipe.write(root, images=120, size=SIDE)
    return root


def settings(**more):
    return TrainSettings(
        epochs=15, batch_size=16, crop=SIDE, resize_low=SIDE, resize_high=SIDE, optimizer="adamw", lr=2e-3,
        head_lr_multiplier=1.0, clip=1.0, **more,
    )  # fmt: skip


def test_the_watermark_is_where_the_regions_say_and_gives_the_class_away_until_it_is_shifted(data):
    train = open_dataset(data, split="train")
    regions = Regions(data / "regions", train)
    for item in train.items:
        image, label = train.read_image(item), 1 in (item.labels or ())
        region = regions.read(item, image.shape[:2])
        assert region.any() == label
        assert not label or image[region].std() > 100
    for split, wanted in (("confounded", True), ("shifted", False)):
        others = open_dataset(data, split=split)
        assert len(others) == 60
        for item in others.items:
            stripes = (others.read_image(item) == 250).all(2).sum() > 20
            assert stripes == ((1 in (item.labels or ())) == wanted)


def share_at(classifier, dataset, regions):
    """Mean share of a map's absolute sum that lies on the watermark, of the class that it gives away."""
    shares = []
    for item in dataset.items:
        image = dataset.read_image(item)
        region = regions.read(item, image.shape[:2])
        if region.any():
            (found,) = explain_images(classifier, methods.create("input-x-gradient"), [image], [(1,)], [item.id])
            sizes = np.abs(found.maps[0])
            shares.append(sizes[region].sum() / sizes.sum())
    return np.mean(shares)


@pytest.mark.slow
def test_guidance_removes_the_reliance_on_a_watermark(data, record_property):
    train = open_dataset(data, split="train")
    regions = Regions(data / "regions", train)
    torch.manual_seed(0)
    first = create(NETWORK, train.classes, weights="none")
    train_classifier(train, first, settings())

    def scores(classifier):
        return {
            split: validate(
                open_dataset(data, split=split), classifier, device=torch.device("cpu"), long_side=SIDE
            ).average_precision[0]
            for split in ("confounded", "clean", "shifted")
        }

    def trained_on(weight):
        copied = create(NETWORK, train.classes, weights="none")
        copied.net.load_state_dict(first.net.state_dict())
        copied = with_heatmap(Classifier(copied.config, copied.net), ("input-x-gradient",))
        guided = GuidedSettings(
            settings(), heatmap=("input-x-gradient",), loss="rrr", background=False, region_weight=weight
        )
        train_guided(train, [], copied, guided, regions=regions)
        return copied

    longer, right = trained_on(0.0), trained_on(0.5)
    before, control, after = scores(first), scores(longer), scores(right)
    relied, still, looks = (share_at(one, train, regions) for one in (first, longer, right))
    record_property("beetle", str({"first": before, "longer": control, "right": after}))
    record_property("share", f"{relied:.3f} {still:.3f} {looks:.3f}")
    assert before["confounded"] > 0.95
    assert max(before["shifted"], control["shifted"]) < after["shifted"] - 0.15
    assert after["clean"] > before["clean"] - 0.05
    assert looks < 0.7 * min(relied, still)
