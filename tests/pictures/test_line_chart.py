import io

import numpy as np
import pytest
from PIL import Image

from xseg.pictures.line_chart import COLOURS, GRID, Line, Panel, line_charts, png, run_of


def pixels(picture, colour):
    return np.argwhere((np.abs(np.asarray(picture).astype(int) - colour) < 40).all(-1))


def panel(*heights):
    lines = [Line(f"run {k}", (0.0, 0.5, 1.0), (y, y, y)) for k, y in enumerate(heights)]
    return Panel("positive", "share removed", "right", lines)


def test_lines_lie_at_their_heights_in_their_colours():
    picture = line_charts([panel(0.25, 0.75)])
    low, high = (pixels(picture, COLOURS[k]) for k in (0, 1))
    rows = [np.bincount(found[found[:, 0] < 360, 0]).argmax() for found in (low, high)]  # above the legend
    assert rows[0] - rows[1] == pytest.approx(150, abs=2)  # half of an axis of 300 pixels
    assert len(low) > 250


def test_panels_stand_in_rows_of_two_and_the_legend_names_every_line():
    sizes = [line_charts([panel(0.5)] * count).size for count in (1, 2, 3)]
    assert sizes[0][0] < sizes[1][0] == sizes[2][0]
    assert sizes[0][1] == sizes[1][1] < sizes[2][1]
    assert line_charts([panel(0.5, 0.6, 0.7)]).height == sizes[0][1] + 40


def test_more_lines_than_colours_are_dashed():
    many = line_charts([panel(*[0.01] * len(COLOURS), 0.9)])
    few = line_charts([panel(0.9)])
    dashed, solid = (len(pixels(picture.crop((40, 50, 360, 120)), COLOURS[0])) for picture in (many, few))
    assert 0.3 * solid < dashed < 0.8 * solid


def test_a_curve_without_points_and_odd_names_are_drawn():
    lines = [Line("x" * 300, (0, 1), (None, None)), Line("\u4e2d [red]\n", (0, 1), (0, None))]
    picture = line_charts([Panel("", "", "", lines)])
    assert len(pixels(picture, GRID))
    with Image.open(io.BytesIO(png(picture, "0a"))) as again:
        assert again.size == picture.size
    with pytest.raises(ValueError, match="no panel"):
        line_charts([])


def test_a_picture_knows_its_run(tmp_path):
    path = tmp_path / "curves.png"
    path.write_bytes(png(line_charts([panel(0.5)]), "0a1b"))
    assert run_of(path) == "0a1b"
    Image.new("RGB", (4, 4)).save(path)
    assert run_of(path) is None
    path.write_text("no picture")
    assert run_of(path) is None


def test_twenty_eight_lines_can_be_told_apart():
    shown = [line_charts([panel(*[0.01] * number, 0.9)]).crop((40, 50, 360, 120)) for number in range(28)]
    assert len({picture.tobytes() for picture in shown}) == 28
