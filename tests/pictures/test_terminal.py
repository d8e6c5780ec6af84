import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from xseg.pictures.sheet import Row
from xseg.pictures.terminal import half_blocks, row_lines

CHARACTER = re.compile("\x1b\\[38;2;(\\d+);(\\d+);(\\d+);48;2;(\\d+);(\\d+);(\\d+)m▀")


def pixels_of(lines):
    """What a terminal would show: (2 lines, columns, 3)."""
    rows = []
    for line in lines:
        assert line.endswith("\x1b[0m")
        found = np.array(CHARACTER.findall(line), int)
        assert CHARACTER.sub("", line) == "\x1b[0m"
        rows += [found[:, :3], found[:, 3:]]
    return np.array(rows)


def visible(line):
    return re.sub("\x1b\\[[0-9;]*m", "", line)


def test_every_pixel_is_half_a_character():
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    np.testing.assert_array_equal(pixels_of(half_blocks(Image.fromarray(image), 9)), image)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40))
def test_the_aspect_is_kept_to_half_a_line(width, height, columns):
    lines = half_blocks(Image.new("RGB", (width, height)), columns)
    assert all(len(visible(line)) == columns for line in lines)
    assert abs(2 * len(lines) - height * columns / width) <= 1 or len(lines) == 1


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_row_fits_the_columns_and_names_everything(count):
    pictures = [Image.new("RGB", (40, 30 + 10 * k)) for k in range(count)]
    lines = row_lines(Row("2007_000033", pictures, [f"caption {k}" for k in range(count)]), 60)
    assert lines[0] == "2007_000033"
    assert all(len(visible(line)) <= 60 for line in lines)
    if 0 < count < 3:
        assert all(f"caption {k}" in lines[-2] for k in range(count))


def test_more_pictures_than_columns_and_long_titles_are_cut():
    lines = row_lines(Row("x" * 90, [Image.new("RGB", (4, 4))] * 3, ["abcdef"] * 3), 20)
    assert lines[0] == "x" * 19 + "…"
    assert visible(lines[-2]) == "abcdef abcdef abcdef"
    assert max(len(visible(line)) for line in lines) == 20
