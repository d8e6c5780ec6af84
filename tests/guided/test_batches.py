"""Batches with and without masks: their ratio, their order, and what the masks become."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xseg.classifier.settings import TrainSettings
from xseg.datasets import open_dataset
from xseg.datasets.synthetic import write_synthetic
from xseg.datasets.transforms import augment
from xseg.errors import BadInput, InputMissing, UsageError
from xseg.guided.batches import GuidedBatches, MixedOrder, labels_in
from xseg.guided.masks import Regions, chosen_items, drawn_items, masks_parent
from xseg.seeding import generator

SETTINGS = TrainSettings(batch_size=4, crop=40, resize_low=40, resize_high=64, seed=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("guided") / "data", images=16, classes=3, size=64, seed=2)


@pytest.fixture(scope="module")
def dataset(data):
    return open_dataset(data, split="train")


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.7, 1 / 3, 1])
@pytest.mark.parametrize("size", [1, 5, 10])
def test_the_ratio_is_kept_to_within_one_in_every_run_of_batches(share, size):
    order = MixedOrder(range(4), range(4, 30), share, seed=0, batch_size=size)
    drawn = [sample for step in range(60) for sample in order.batch(step)]
    for count in range(1, len(drawn) + 1):
        assert abs(sum(masked for *_, masked in drawn[:count]) - share * count) < 1 + 1e-3
    assert all((place < 4) == masked for place, _, masked in drawn)
    if 0 < share < 1:  # each list epoch by epoch, nobody twice before all have been once
        for wanted, places in ((True, range(4)), (False, range(4, 30))):
            own = [place for place, _, masked in drawn if masked == wanted]
            for start in range(0, len(own) - len(places) + 1, len(places)):
                assert sorted(own[start : start + len(places)]) == list(places)


@pytest.mark.parametrize(("masked", "rest", "expected"), [([0, 1, 2], [], 1), ([], [0, 1, 2], 0)])
def test_a_list_that_is_empty_has_no_say(masked, rest, expected):
    order = MixedOrder(masked, rest, 0.5, seed=0, batch_size=4)
    assert [flag for *_, flag in order.batch(7)] == [bool(expected)] * 4


@pytest.mark.parametrize("parts", [2, 3])
def test_processes_share_a_batch_and_its_masks(parts):
    whole = MixedOrder(range(4), range(4, 30), 0.5, 1, 12)
    shares = [MixedOrder(range(4), range(4, 30), 0.5, 1, 12, (part, parts)) for part in range(parts)]
    for step in range(9):
        slices = [order.batch(step) for order in shares]
        assert [sample for one in slices for sample in one] == whole.batch(step)
        counts = [sum(masked for *_, masked in one) for one in slices]
        assert max(counts) - min(counts) <= 1


def batches(dataset, masked, unknown="ignore", regions=None, share=0.5, workers=0):
    rest = [place for place in range(len(dataset)) if place not in masked]
    order = MixedOrder(masked, rest, share, SETTINGS.seed, SETTINGS.batch_size)
    return GuidedBatches(dataset, order, SETTINGS, unknown=unknown, regions=regions, workers=workers)


def test_a_batch_depends_on_its_step_alone(dataset):
    makes = batches(dataset, [0, 1, 2])
    whole = list(makes(range(6)))
    (late,) = batches(dataset, [0, 1, 2], workers=2)(range(4, 5))
    assert set(late) == {"images", "valid", "labels", "mask", "masked", "region", "draw"}
    assert all(torch.equal(late[name], whole[4][name]) for name in late)


def test_a_mask_lies_on_its_image_and_gives_the_labels(dataset):
    """Oracle: the image whose colours are its mask goes through the same augmentation."""
    order = MixedOrder(range(12), [], 1, SETTINGS.seed, 4)
    makes = GuidedBatches(dataset, order, SETTINGS, unknown="ignore", regions=None, workers=0)
    seen = 0
    for step, batch in zip(range(3), makes(range(3)), strict=True):
        for row, (place, epoch, _) in enumerate(order.batch(step)):
            item = dataset.items[place]
            image, mask = dataset.read_image(item), dataset.read_mask(item)
            made = augment(image, generator(SETTINGS.seed, item.id, epoch), SETTINGS.augmentation())
            assert np.array_equal(batch["images"][row].numpy().transpose(1, 2, 0), made.image)
            found = batch["mask"][row].numpy()
            top, left, bottom, right = made.geometry.valid
            outside = np.ones(found.shape, bool)
            outside[top:bottom, left:right] = False
            assert (found[outside] == -1).all()
            assert (found[~outside] >= 0).all()
            present = {int(k) for k in np.unique(found) if k > 0}
            assert present <= {int(k) for k in np.unique(mask)}
            assert batch["labels"][row].tolist() == [int(k in present) for k in (1, 2, 3)]
            # nearest neighbour at pixel centres of the resized and flipped mask
            height, width = made.geometry.resized
            rows = ((np.arange(top, bottom) + made.geometry.offset[0] + 0.5) * mask.shape[0] / height).astype(int)
            columns = np.arange(left, right) + made.geometry.offset[1]
            columns = width - 1 - columns if made.geometry.flip else columns
            columns = ((columns + 0.5) * mask.shape[1] / width).astype(int)
            assert np.array_equal(found[top:bottom, left:right], mask[rows[:, None], columns[None]])
            seen += len(present)
    assert seen > 6


def test_images_without_a_mask_keep_their_labels_and_know_no_pixel(dataset):
    (batch,) = batches(dataset, [], share=0.5)(range(1))
    assert not batch["masked"].any()
    assert (batch["mask"] == -1).all()
    assert set(batch["labels"].unique().tolist()) <= {0, 1}


def spoiled(tmp_path, dataset, data):
    """The data set with a border of unknown pixels in each mask."""
    from shutil import copytree

    where = copytree(data, tmp_path / "copy")
    for path in sorted((where / "SegmentationClass").glob("*.png")):
        with Image.open(path) as mask:
            values, palette = np.array(mask), mask.getpalette()
        values[:12] = 255
        made = Image.fromarray(values, "P")
        made.putpalette(palette)
        made.save(path)
    return open_dataset(where, split="train")


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_unknown_pixels_are_left_out_or_as_published_background(tmp_path, data, dataset):
    unknown = spoiled(tmp_path, dataset, data)
    (left_out,) = batches(unknown, list(range(12)), "ignore")(range(1))
    (published,) = batches(unknown, list(range(12)), "background")(range(1))
    changed = left_out["mask"] != published["mask"]
    assert changed.any()
    assert (left_out["mask"][changed] == -1).all()
    assert (published["mask"][changed] == 0).all()
    # what the augmentation pads stays unknown in both
    inside = torch.zeros_like(changed)
    for row, (top, left, bottom, right) in enumerate(left_out["valid"].tolist()):
        inside[row, top:bottom, left:right] = True
    assert (published["mask"][~inside] == -1).all()


def test_labels_of_a_mask_that_says_nothing_are_unknown():
    assert labels_in(np.array([[0, 2], [-1, 2]]), 3).tolist() == [0, 1, 0]
    assert labels_in(np.full((2, 2), -1), 3).tolist() == [255, 255, 255]


def test_fewer_masks_are_a_part_of_more_and_rare_classes_come_first(dataset):
    chosen = [set(drawn_items(dataset, count, 0, 1.0)) for count in range(13)]
    assert [len(found) for found in chosen] == list(range(13))
    assert all(few <= more for few, more in pairwise(chosen))
    assert drawn_items(dataset, None, 0, 1.0) == list(range(12))
    counts = np.zeros((2, 12))
    for seed in range(300):
        for row, balance in enumerate((0.0, 4.0)):
            counts[row, drawn_items(dataset, 3, seed, balance)] += 1
    labels = np.array([dataset.label_vector(item) for item in dataset.items])
    rarest = labels[:, labels.sum(0).argmin()] == 1
    assert counts[0].std() < 12  # 75 each, if all are alike
    assert counts[1, rarest].mean() > 1.3 * counts[0, rarest].mean()


def test_masks_are_chosen_by_number_word_list_or_file(tmp_path, data, dataset):
    ids = [item.id for item in dataset.items]
    (tmp_path / "some.txt").write_text(f"{ids[3]}\n\n{ids[1]}\n")

    def choose(given):
        return chosen_items(dataset, given, lambda name: open_dataset(data, split=name), seed=0, balance=1)

    assert choose("0") == []
    assert len(choose("5")) == 5
    assert choose("all") == choose("train") == list(range(12))
    assert choose(str(tmp_path / "some.txt")) == [1, 3]
    with pytest.raises(BadInput, match="--masks 13: only 12 of the 12"):
        choose("13")
    with pytest.raises(BadInput, match="none of its 4 images"):
        choose("val")
    with pytest.raises(UsageError, match="no number, no file and no list") as refused:
        choose("nothing")
    assert "train" in refused.value.hint


def test_an_image_named_without_a_mask_is_refused(tmp_path, data):
    from shutil import copytree

    where = copytree(data, tmp_path / "copy")
    (where / "SegmentationClass" / "00003.png").unlink()
    dataset = open_dataset(where, split="train")
    with pytest.raises(BadInput, match="00003 has no mask \\(1 of 12"):
        chosen_items(dataset, "train", lambda name: open_dataset(where, split=name), seed=0, balance=1)
    assert len(drawn_items(dataset, None, 0, 1)) == 11


def test_masks_are_known_by_their_content(tmp_path, data, dataset):
    before = masks_parent(dataset, [0, 1])
    assert before != masks_parent(dataset, [0, 2])
    assert masks_parent(spoiled(tmp_path, dataset, data), [0, 1]).content != before.content


def test_regions_go_with_their_images(tmp_path, dataset):
    item = dataset.items[2]
    size = dataset.read_image(item).shape[:2]
    region = np.zeros(size, np.uint8)
    region[:9, -9:] = 200
    Image.fromarray(region).save(tmp_path / f"{item.id}.png")
    regions = Regions(tmp_path, dataset)
    assert len(regions) == 1
    assert regions.read(item, size).sum() == 81
    assert not regions.read(dataset.items[0], size).any()
    (batch,) = batches(dataset, [2], regions=regions, share=1 / 4)(range(1))
    assert batch["region"].flatten(1).any(1).tolist() == batch["masked"].tolist()
    with pytest.raises(BadInput, match=f"{item.id}.png: {size[0]} x {size[1]}"):
        regions.read(item, (size[0] + 1, size[1]))
    other = Regions(tmp_path, dataset).parent
    region[0, 0] = 1
    Image.fromarray(region).save(tmp_path / f"{item.id}.png")
    assert Regions(tmp_path, dataset).parent != other


def test_regions_for_no_image_are_refused(tmp_path, dataset):
    with pytest.raises(BadInput, match="for none of the 12 images"):
        Regions(tmp_path, dataset)
    with pytest.raises(InputMissing):
        Regions(Path(tmp_path / "nowhere"), dataset)
