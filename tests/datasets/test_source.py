import hashlib

import numpy as np
import pytest

from tests.datasets.builders import as_tar, as_zip, pixels, png, put
from xseg.datasets import ImageSource, digest, open_dataset
from xseg.errors import BadInput, InputMissing


def test_digest_is_the_sha256_of_the_bytes():
    assert digest(b"abc") == hashlib.sha256(b"abc").hexdigest()


def test_roots_are_searched_in_order_and_may_be_archives(tmp_path):
    first = put(tmp_path / "first", {"d/a.png": png(pixels(1))})
    second = put(tmp_path / "second", {"d/a.png": png(pixels(2)), "d/b.png": png(pixels(3)), "x": "x"})
    third = put(tmp_path / "third", {"d/c.png": png(pixels(4)), "x": "x"})
    source = ImageSource([first, as_tar(second, tmp_path / "s.tar"), as_zip(third, tmp_path / "t.zip")])
    for name, seed in (("a", 1), ("b", 3), ("c", 4)):
        assert np.array_equal(source.read(f"d/{name}.png"), pixels(seed))


def test_the_right_file_is_known_by_its_digest_in_any_root(tmp_path):
    new, old = (put(tmp_path / str(seed), {"a.png": png(pixels(seed))}) for seed in (1, 2))
    found = ImageSource([new, old]).read("a.png", digest(png(pixels(2))))
    assert np.array_equal(found, pixels(2))


def test_a_replaced_image_is_bad_input_and_a_missing_one_says_where_it_looked(tmp_path):
    root = put(tmp_path / "root", {"a.png": png(pixels(1))})
    source = ImageSource([tmp_path / "moved", root])
    with pytest.raises(BadInput, match=r"a\.png was replaced"):
        source.read("a.png", "0" * 64)
    with pytest.raises(InputMissing, match=r"looked in .*moved \(not there\), .*root") as caught:
        source.read("b.png")
    assert "--images" in caught.value.hint


@pytest.mark.parametrize("path", ["../a.png", "/a.png", "d/../../a.png"])
def test_paths_of_an_artifact_cannot_leave_the_root(tmp_path, path):
    put(tmp_path, {"a.png": png(pixels(1)), "root/d/b.png": png(pixels(1))})
    with pytest.raises(BadInput, match="relative path"):
        ImageSource([tmp_path / "root"]).read(path)


def test_every_kind_of_location_serves_as_a_root_for_its_own_paths(tmp_path):
    root = put(tmp_path / "x", {"d/a.png": png(pixels(1)), "list.csv": "path,classes\nd/a.png,cat\n"})
    for location in (root, root / "list.csv", root / "d/a.png"):
        dataset = open_dataset(location)
        item = dataset.items[0]
        image, sha256 = dataset.read_verified(item)
        assert np.array_equal(image, pixels(1))
        assert np.array_equal(ImageSource([dataset.root]).read(item.path, sha256), image)
        assert np.array_equal(ImageSource([location]).read(item.path, sha256), image)
