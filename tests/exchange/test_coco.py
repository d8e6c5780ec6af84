import numpy as np
import pytest

from xseg.exchange.coco import annotation

MASK = np.array([[0, 1, 1], [0, 1, 0]], bool)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # its own, with NumPy 2
def test_pycocotools_reads_it():
    coco = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(0).random((37, 53)) < 0.3
    found = annotation(mask, 1, 1, 1)
    encoded = {"size": found["segmentation"]["size"], "counts": found["segmentation"]["counts"].encode()}
    assert np.array_equal(coco.decode(encoded).astype(bool), mask)
    assert coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode() == found["segmentation"]["counts"]
    assert found["area"] == coco.area(encoded)
    assert found["bbox"] == coco.toBbox(encoded).tolist()


def test_an_annotation_has_the_box_and_area_of_its_pixels():
    found = annotation(MASK, 7, 3, 2)
    assert (found["bbox"], found["area"]) == ([1, 0, 2, 2], 3)
    assert (found["id"], found["image_id"], found["category_id"], found["iscrowd"]) == (7, 3, 2, 0)
