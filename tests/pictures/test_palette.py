import numpy as np
import pytest

from xseg.pictures.palette import colours, palette


def test_the_first_colours_are_those_of_the_voc_devkit():
    known = [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128),
        (128, 128, 128), (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0), (64, 0, 128), (192, 0, 128),
        (64, 128, 128), (192, 128, 128), (0, 64, 0), (128, 64, 0), (0, 192, 0), (128, 192, 0), (0, 64, 128),
    ]  # fmt: skip
    assert list(map(tuple, palette(21).tolist())) == known


def test_unknown_is_pale():
    assert colours(np.array([255, 65535])).tolist() == [[224, 224, 192], [252, 248, 248]]


def test_many_classes_have_different_colours():
    assert len(np.unique(palette(70000), axis=0)) == 70000
    assert colours(np.array(2**24 - 1)).tolist() == [255, 255, 255]


@pytest.mark.parametrize("bad", [-1, 2**24])
def test_ids_without_a_colour_are_refused(bad):
    with pytest.raises(ValueError, match="class ids"):
        colours(np.array([0, bad]))


def test_colours_keep_the_shape_of_the_ids():
    assert colours(np.zeros((3, 4), np.uint8)).shape == (3, 4, 3)
    assert colours(np.zeros((0, 4), np.uint8)).shape == (0, 4, 3)
