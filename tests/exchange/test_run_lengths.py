import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xseg.exchange.run_lengths import filled, packed, run_lengths, unpacked

MASK = np.array([[0, 1, 1], [0, 1, 0]], bool)
masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20))
patchy = st.builds(lambda mask, times: np.kron(mask, np.ones((times, times), bool)), masks, st.integers(1, 40))


def plainly_unpacked(text):
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


def test_runs_go_down_the_columns_and_begin_with_zeros():
    assert run_lengths(MASK) == [2, 3, 1]
    assert run_lengths(~MASK) == [0, 2, 3, 1]
    assert run_lengths(np.ones((2, 2), bool)) == [0, 4]
    assert run_lengths(np.zeros((2, 2), bool)) == [4]


@given(masks | patchy)
def test_what_is_packed_is_the_mask(mask):
    lengths = run_lengths(mask)
    text = packed(lengths)
    assert plainly_unpacked(text) == lengths == unpacked(text).tolist()
    assert np.array_equal(filled(lengths, mask.shape), mask)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # its own, with NumPy 2
@given(masks | patchy)
def test_pycocotools_packs_the_same(mask):
    coco = pytest.importorskip("pycocotools.mask")
    text = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert np.array_equal(filled(unpacked(text), mask.shape), mask)
    assert packed(run_lengths(mask)) == text


@pytest.mark.parametrize("text", ["a", "0P", "/0", "0\x7f", "é", "PPPPPPPP0"])
def test_what_is_no_text_of_run_lengths_is_refused(text):
    with pytest.raises(ValueError, match="run"):
        unpacked(text)


def test_no_text_has_no_runs():
    assert unpacked("").tolist() == []
