import numpy as np
import pytest

from xseg.pictures.colormap import diverging, sequential
from xseg.pictures.overlay import overlay_heatmap, overlay_mask
from xseg.pictures.palette import palette

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def lightness(colours):
    """CIE L* of sRGB bytes, another measure of lightness than the one the tables are made with."""
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return 116 * np.where(luminance > 0.008856, np.cbrt(luminance), 7.787 * luminance + 16 / 116) - 16


def test_a_mask_of_background_leaves_the_image_as_it_is():
    picture = overlay_mask(IMAGE, np.zeros((12, 17), np.uint8))
    assert picture.size == (17, 12)
    assert picture.mode == "RGB"
    assert np.array_equal(np.asarray(picture), IMAGE)


def test_a_mask_is_tinted_inside_and_drawn_in_full_at_its_border():
    mask = np.zeros((12, 17), np.uint8)
    mask[2:9, 3:12] = 2
    drawn = np.asarray(overlay_mask(IMAGE, mask, 0.5))
    assert np.array_equal(drawn[2, 3:12], np.broadcast_to(palette(3)[2], (9, 3)))
    inside = (slice(3, 8), slice(4, 11))
    assert np.abs(drawn[inside] - (IMAGE[inside] / 2 + palette(3)[2] / 2)).max() <= 0.5
    assert np.array_equal(drawn[mask == 0], IMAGE[mask == 0])
    assert np.array_equal(np.asarray(overlay_mask(IMAGE, mask, 0)), IMAGE)


def test_the_strongest_value_has_the_last_colour_and_zero_the_first():
    heatmap = np.zeros((12, 17), np.float16)
    heatmap[5, 6] = 0.25
    drawn = np.asarray(overlay_heatmap(IMAGE, heatmap, 1.0))
    assert np.array_equal(drawn[5, 6], sequential()[255])
    assert np.array_equal(drawn[0, 0], sequential()[0])
    half = np.asarray(overlay_heatmap(IMAGE, heatmap, 1.0, limit=0.5))
    assert np.array_equal(half[5, 6], sequential()[128])


def test_signed_maps_have_two_sided_colours():
    heatmap = np.zeros((12, 17), np.float32)
    heatmap[0, 0], heatmap[0, 1] = -2, 2
    drawn = np.asarray(overlay_heatmap(IMAGE, heatmap, 1.0)).astype(int)
    assert drawn[0, 0, 2] > drawn[0, 0, 0] + 50
    assert drawn[0, 1, 0] > drawn[0, 1, 2] + 50
    assert np.ptp(drawn[5, 5]) < 8
    positive = np.asarray(overlay_heatmap(IMAGE, heatmap, 1.0, signed=False))
    assert np.array_equal(positive[0, 0], sequential()[0])


def test_a_small_map_is_enlarged_to_the_image_and_an_empty_one_is_no_error():
    ramp = np.array([[0.0, 1.0]], np.float32)
    drawn = np.asarray(overlay_heatmap(IMAGE, ramp, 1.0))
    assert drawn.shape == IMAGE.shape
    assert (np.diff(lightness(drawn[0])) > -0.6).all()
    assert np.array_equal(np.asarray(overlay_heatmap(IMAGE, np.zeros((3, 3)), 0.0)), IMAGE)


def test_colour_maps_change_lightness_evenly():
    up = lightness(sequential())
    assert (np.diff(up) > -0.6).all()
    assert up[-1] - up[0] > 70
    assert np.abs(np.diff(up[::32]) - np.diff(up[::32]).mean()).max() < 6
    both = lightness(diverging())
    assert both[127] > 90
    assert np.abs(both - both[::-1]).max() < 8
    assert (np.diff(both[:128]) > -0.6).all()
    for table in (sequential(), diverging()):
        assert np.abs(np.diff(table.astype(int), axis=0)).max() < 16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: overlay_mask(IMAGE, np.zeros((12, 16), np.uint8)), "mask has shape"),
        (lambda: overlay_mask(IMAGE, np.zeros((12, 17), np.uint8), 1.5), "alpha is 1.5"),
        (lambda: overlay_mask(IMAGE / 255, np.zeros((12, 17), np.uint8)), "dtype float64"),
        (lambda: overlay_heatmap(IMAGE, np.full((2, 2), np.nan)), "not finite"),
        (lambda: overlay_heatmap(IMAGE, np.ones((2, 2)), limit=0.0), "limit is 0.0"),
        (lambda: overlay_heatmap(IMAGE, np.ones((1, 2, 2))), "layer has shape"),
    ],
)
def test_unfit_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
