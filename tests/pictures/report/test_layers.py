import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from xseg.errors import BadInput
from xseg.pictures.colormap import diverging, sequential
from xseg.pictures.palette import colours
from xseg.pictures.report.layers import fitted, heatmap_layer, mask_layer, photograph_layer


def opened(data):
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        return picture


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 600))
def test_a_grid_is_shrunk_to_fit_keeps_its_aspect_and_never_grows(height, width, longest):
    rows, columns = fitted((height, width), longest)
    assert 1 <= rows <= height
    assert 1 <= columns <= width
    assert max(rows, columns) == min(longest, max(height, width))
    assert abs(rows * width - columns * height) <= max(height, width) or min(rows, columns) == 1


def test_a_photograph_is_a_small_jpeg_of_the_same_colours():
    image = np.empty((60, 90, 3), np.uint8)
    image[:, :45], image[:, 45:] = (200, 30, 20), (20, 40, 210)
    picture = opened(photograph_layer(image, 30))
    assert (picture.format, picture.size) == ("JPEG", (30, 20))
    pixels = np.asarray(picture).astype(int)
    assert np.abs(pixels[:, 5] - (200, 30, 20)).max() < 12
    assert np.abs(pixels[:, 25] - (20, 40, 210)).max() < 12


def test_a_label_map_has_the_colours_of_its_classes_and_lets_the_background_through():
    rng = np.random.default_rng(3)
    mask = rng.choice(np.array([0, 1, 7, 20, 255], np.uint8), (17, 23))
    picture = opened(mask_layer(mask, 23))
    assert picture.format == "PNG"
    pixels = np.asarray(picture.convert("RGBA"))
    np.testing.assert_array_equal(pixels[..., 3], np.where(mask == 0, 0, 255))
    np.testing.assert_array_equal(pixels[..., :3][mask > 0], colours(mask[mask > 0]))


def test_a_shrunk_label_map_holds_values_of_the_map_alone():
    mask = np.zeros((40, 40), np.uint16)
    mask[:, 20:] = 300
    pixels = np.asarray(opened(mask_layer(mask, 10)).convert("RGBA"))
    assert pixels.shape == (10, 10, 4)
    assert (pixels[:, :5, 3] == 0).all()
    assert (pixels[:, 5:, :3] == colours(np.array(300))).all()


def test_more_classes_than_a_palette_has_fail_the_image():
    with pytest.raises(BadInput, match="257 classes"):
        mask_layer(np.arange(257, dtype=np.uint16)[None], 300)


@pytest.mark.parametrize(("low", "table"), [(0.0, sequential), (-1.0, diverging)])
def test_a_heatmap_goes_through_the_colours_of_show(low, table):
    heatmap = np.linspace(low, 1, 200, dtype=np.float16)[None].repeat(4, 0)
    pixels = np.asarray(opened(heatmap_layer(heatmap, 200)).convert("RGB")).astype(int)
    exact = table()[np.rint((heatmap.astype(float) - low) / (1 - low) * 255).astype(int)].astype(int)
    assert np.abs(pixels - exact).max() <= 16  # 64 colours of 256
    assert (pixels[0, 0] == table()[0]).all()
    assert (pixels[0, -1] == table()[-1]).all()


def test_a_layer_of_another_number_of_axes_is_refused():
    for layer in (heatmap_layer, mask_layer):
        with pytest.raises(ValueError, match="needed"):
            layer(np.zeros((2, 3, 4), np.float32), 10)
