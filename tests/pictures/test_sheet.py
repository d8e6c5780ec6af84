import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from xseg.pictures.palette import palette
from xseg.pictures.sheet import GAP, LINE, PAPER, Row, contact_sheet, fit_text

FONT = ImageFont.load_default(13)


def picture(width, height, colour=(10, 200, 30)):
    return Image.new("RGB", (width, height), colour)


@given(st.text(max_size=80), st.integers(0, 200))
def test_text_never_gets_wider_than_its_room(text, width):
    assert FONT.getlength(fit_text(text, FONT, width)) <= width


def test_text_that_fits_is_whole_and_other_text_ends_in_dots():
    assert fit_text("two\nlines", FONT, 500) == "two lines"
    cut = fit_text("a" * 100, FONT, 100)
    assert cut.endswith("a...")
    assert FONT.getlength(cut + "a") > 100


def test_letters_the_bitmap_font_lacks_do_not_stop_it():
    assert fit_text("猫 cat", ImageFont.load_default_imagefont(), 500) == "? cat"


def test_the_sheet_has_room_for_every_row_and_the_margin_stays_white():
    long = "a title that is far too long for such a narrow sheet " * 4
    rows = [
        Row(long, [picture(300, 100)] * 3, [long, "b", ""]),
        Row("one", [picture(20, 30)]),
        Row("nothing here", []),
    ]
    legend = {f"a rather long class name number {n} {'x' * 20 * n}": n for n in range(9)}
    sheet = contact_sheet(rows, legend=legend, cell=(100, 80))
    assert sheet.width == GAP + 3 * (100 + GAP)
    pixels = np.asarray(sheet)
    for edge in (pixels[:, : GAP - 1], pixels[:, 1 - GAP :], pixels[: GAP - 2], pixels[-2:]):
        assert (edge == PAPER).all()
    for colour in palette(9)[1:]:
        assert (pixels == colour).all(-1).any()


def test_pictures_are_shrunk_with_their_aspect_and_never_enlarged():
    pixels = np.asarray(contact_sheet([Row("", [picture(400, 100), picture(10, 10)])], cell=(100, 100)))
    green = (pixels == (10, 200, 30)).all(-1)
    left, right = green[:, : GAP + 100], green[:, GAP + 100 :]
    assert right.sum() == 100
    # the wide one is framed at both ends
    assert (left.any(1).sum(), left.any(0).sum()) == (25, 98)
    assert np.flatnonzero(left.any(1))[0] == GAP + LINE + 37


def test_a_grey_picture_and_no_legend_are_fine():
    assert contact_sheet([Row("mask", [Image.new("P", (5, 5))])]).mode == "RGB"


def test_empty_sheets_and_stray_captions_are_refused():
    with pytest.raises(ValueError, match="no row"):
        contact_sheet([])
    with pytest.raises(ValueError, match="2 captions, needed 1"):
        contact_sheet([Row("a", [picture(3, 3)], ["x", "y"])])
