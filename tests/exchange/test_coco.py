import numpy as np
import pytest

from xseg.exchange.coco import annotation, packed, run_lengths

MASK = np.array([[0, 1, 1], [0, 1, 0]], bool)


def unpacked(text):
    """COCO's `rleFrString`, read from its description: groups of five bits, signed, differences from the third on."""
    lengths, place = [], 0
    while place < len(text):
        value, shift = 0, 0
        while True:
            bits = ord(text[place]) - 48
            value |= (bits & 31) << shift
            shift, place = shift + 5, place + 1
            if not bits & 32:
                break
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
    return lengths


def filled(lengths, shape):
    values = np.repeat(np.arange(len(lengths)) % 2, lengths)
    return values.reshape(shape, order="F").astype(bool)


def test_runs_go_down_the_columns_and_begin_with_zeros():
    assert run_lengths(MASK) == [2, 3, 1]
    assert run_lengths(~MASK) == [0, 2, 3, 1]
    assert run_lengths(np.ones((2, 2), bool)) == [0, 4]
    assert run_lengths(np.zeros((2, 2), bool)) == [4]


@pytest.mark.parametrize("share", [0.001, 0.5, 0.97])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_packed_is_the_mask(seed, share):
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 200, 2))
    mask = random.random(shape) < share
    lengths = unpacked(packed(run_lengths(mask)))
    assert lengths == run_lengths(mask)
    assert np.array_equal(filled(lengths, shape), mask)


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
