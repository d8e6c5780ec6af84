import hashlib

import numpy as np
import pytest
from PIL import Image

from xseg.datasets import open_dataset
from xseg.datasets.synthetic import CLASSES, render, write_synthetic
from xseg.errors import CannotCreate, UsageError


def tree_digest(root):
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("synthetic") / "data", images=60, size=96, seed=5)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path, written):
    assert tree_digest(write_synthetic(tmp_path / "a", images=60, size=96, seed=5)) == tree_digest(written)
    assert tree_digest(write_synthetic(tmp_path / "b", images=60, size=96, seed=6)) != tree_digest(written)


def test_an_image_depends_on_its_seed_and_index_alone():
    image, mask = render(1, 7)
    render(1, 8)
    again = render(1, 7)
    assert np.array_equal(image, again[0])
    assert np.array_equal(mask, again[1])
    assert not np.array_equal(render(2, 7)[0], image)


def test_it_opens_as_voc_with_train_and_val_and_labels_that_equal_the_masks(written):
    dataset = open_dataset(written)
    assert (dataset.format, dataset.classes) == ("voc", CLASSES)
    assert len(open_dataset(written, split="train")) == 45
    assert len(open_dataset(written, split="val")) == 15
    assert dataset.require_labels() is dataset
    for index, item in enumerate(dataset.items):
        mask = dataset.read_mask(item)
        image, exact = render(5, index, size=96)
        assert np.array_equal(mask, exact)
        assert item.labels == tuple(int(value) for value in np.unique(exact) if value)
        assert np.abs(dataset.read_image(item).astype(int) - image).mean() < 6


def test_masks_are_palette_files_in_the_colours_of_voc(written):
    with Image.open(written / "SegmentationClass/00000.png") as mask:
        assert mask.mode == "P"
        assert mask.getpalette()[: 3 * 4] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]


def test_images_differ_in_size_and_content_as_a_demo_needs():
    drawn = [render(0, index) for index in range(150)]
    shapes = {mask.shape for _, mask in drawn}
    assert all(84 <= side <= 112 for shape in shapes for side in shape)
    assert len(shapes) > 60
    ratios = [height / width for height, width in shapes]
    assert min(ratios) < 0.85
    assert max(ratios) > 1.15
    present = np.array([np.isin(range(1, 7), mask) for _, mask in drawn])
    assert 2 <= (~present.any(1)).sum() <= 20
    assert (present.sum(1) > 1).mean() > 0.3
    assert present.sum(0).min() > 15
    # A crate brings an arrow along much more often than chance would.
    assert present[present[:, 1], 2].mean() > 1.5 * present[~present[:, 1], 2].mean()
    assert 0.1 < np.mean([(mask > 0).mean() for _, mask in drawn]) < 0.5


def test_colour_alone_cannot_tell_some_objects_from_their_ground():
    gaps = []
    for index in range(120):
        image, mask = render(3, index)
        for value in np.unique(mask[mask > 0]):
            around = np.median(image[mask == 0], axis=0)
            gaps.append(np.abs(np.median(image[mask == value], axis=0) - around).max())
    assert 0.05 < np.mean(np.array(gaps) < 20) < 0.5


@pytest.mark.parametrize("classes", range(1, 7))
def test_any_number_of_classes_up_to_six_can_be_drawn(classes):
    seen = np.unique(np.concatenate([render(0, index, classes=classes, size=64)[1].ravel() for index in range(24)]))
    assert seen.tolist() == list(range(classes + 1))


def test_a_directory_with_files_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(CannotCreate, match="not empty"):
        write_synthetic(tmp_path, images=4)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(CannotCreate):
        write_synthetic(tmp_path / "mine" / "below", images=4)


def test_an_empty_directory_is_filled_and_nothing_else_is_left_behind(tmp_path):
    (tmp_path / "data").mkdir()
    assert write_synthetic(tmp_path / "data", images=2, size=40) == tmp_path / "data"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert len(open_dataset(tmp_path / "data", split="val")) == 1


@pytest.mark.parametrize("wrong", [{"images": 1}, {"classes": 0}, {"classes": 7}, {"size": 8}])
def test_numbers_out_of_range_are_usage_errors(tmp_path, wrong):
    with pytest.raises(UsageError, match="needed"):
        write_synthetic(tmp_path / "data", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_half_way_leaves_nothing_under_the_final_name(tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("stop")

    monkeypatch.setattr("xseg.datasets.synthetic.render", fail)
    with pytest.raises(RuntimeError, match="stop"):
        write_synthetic(tmp_path / "data", images=4)
    assert list(tmp_path.iterdir()) == []
