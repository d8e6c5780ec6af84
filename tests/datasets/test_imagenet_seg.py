"""The .mat of ImageNet-Segmentation as a data set, and through the chain."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.artifacts.build_mat import mask, picture, sizes, write_mat
from xseg.datasets import ImageSource, open_dataset
from xseg.datasets.storage import open_storage
from xseg.errors import BadInput, InputMissing, UsageError


@pytest.fixture
def mat(tmp_path):
    return write_mat(tmp_path / "gtsegs_ijcv.mat", 3)


def test_it_is_recognised_and_read(mat):
    dataset = open_dataset(mat)
    assert (dataset.format, dataset.classes, len(dataset)) == ("imagenet-seg", ("foreground",), 3)
    assert [item.id for item in dataset.items] == ["000000", "000001", "000002"]
    assert dataset.has_masks
    assert not dataset.has_labels
    for k, (item, size) in enumerate(zip(dataset.items, sizes(3), strict=True)):
        assert np.array_equal(dataset.read_image(item), picture(k, *size))
        assert np.array_equal(dataset.read_mask(item), mask(k, *size))
        assert dataset.label_vector(item).tolist() == [255]
    assert open_dataset(mat, format="imagenet-seg").items == dataset.items


def test_photographs_are_found_again_by_path_and_digest(mat):
    dataset = open_dataset(mat)
    image, digest = dataset.read_verified(dataset.items[1])
    source = ImageSource([dataset.root])
    assert np.array_equal(source.read(dataset.items[1].path, digest), image)
    other = write_mat(mat.with_name("other.mat"), pairs=[(picture(9), mask(9))] * 3)
    with pytest.raises(BadInput, match="was replaced"):
        ImageSource([other]).read(dataset.items[1].path, digest)
    with pytest.raises(InputMissing, match="not found"):
        source.read("images/000003.ppm")


def test_it_behaves_as_any_storage(mat):
    storage = open_storage(mat)
    assert storage.children() == ["images/", "masks/"]
    assert storage.children("masks")[:2] == ["000000.pgm", "000001.pgm"]
    assert storage.children("nowhere") == []
    assert storage.names() == sorted(storage.names())
    assert all(map(storage.exists, storage.names()))
    for name in ("images/000003.ppm", "images/000000.pgm", "masks/0.pgm", "images/", "x", "images/00000².ppm"):
        assert not storage.exists(name)
    with pytest.raises(InputMissing, match="is not in it"):
        storage.read("images/000003.ppm")
    copy = pickle.loads(pickle.dumps(storage))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(copy.read, storage.names() * 3)) == list(map(storage.read, storage.names() * 3))


def test_what_it_cannot_do_is_told(mat, tmp_path):
    with pytest.raises(UsageError, match="no such list"):
        open_dataset(mat, split="val")
    with pytest.raises(BadInput, match="masks only: explain it with --targets top1"):
        open_dataset(mat).require_labels()
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(BadInput, match=r"needs a \.mat file"):
        open_dataset(tmp_path / "a.png", format="imagenet-seg")
