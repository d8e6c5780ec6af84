import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.datasets.builders import pixels
from tests.datasets.oracle_geometry import source_pixel
from xseg.datasets.transforms import (
    Augmentation,
    Geometry,
    apply_to_labels,
    apply_to_maps,
    augment,
    draw_geometry,
    jitter_colours,
    reduce_labels,
    resize,
    zero_padding,
)
from xseg.device import torchvision_ready
from xseg.seeding import generator

PLAIN = Augmentation(crop=(24, 20), long_side=None, jitter=(0, 0, 0, 0))
sides = st.integers(1, 40)


@given(sides, sides, sides, sides, st.integers(0, 10_000))
@settings(max_examples=80, deadline=None)
def test_labels_come_from_the_pixels_the_geometry_says(height, width, crop_height, crop_width, seed):
    labels = np.arange(height * width).reshape(height, width)
    chosen = Augmentation(crop=(crop_height, crop_width), long_side=(5, 50))
    geometry = draw_geometry(generator(seed), (height, width), chosen)
    found = apply_to_labels(labels, geometry, fill=-1)
    assert found.shape == (crop_height, crop_width)
    top, left, bottom, right = geometry.valid
    for row in range(crop_height):
        for column in range(crop_width):
            source = source_pixel(geometry, row, column)
            inside = top <= row < bottom and left <= column < right
            assert inside == (source is not None)
            assert found[row, column] == (-1 if source is None else labels[source])


@given(sides, sides, st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_the_window_is_inside_a_larger_image_and_holds_a_smaller_one_whole(height, width, seed):
    geometry = draw_geometry(generator(seed), (height, width), PLAIN)
    top, left, bottom, right = geometry.valid
    assert (bottom - top, right - left) == (min(24, height), min(20, width))
    assert geometry.resized == (height, width)


def test_every_position_size_and_flip_is_drawn():
    rng = generator(0)
    geometries = [draw_geometry(rng, (26, 18), PLAIN) for _ in range(300)]
    assert {g.offset for g in geometries} == {(row, -column) for row in range(3) for column in range(3)}
    assert 100 < sum(g.flip for g in geometries) < 200
    longs = [draw_geometry(rng, (30, 60), Augmentation(long_side=(40, 43))).resized for _ in range(200)]
    assert set(longs) == {(20, 40), (20, 41), (21, 42), (22, 43)}
    scales = [
        draw_geometry(rng, (100, 50), Augmentation(long_side=None, rescale=(0.5, 1.5))).resized for _ in range(99)
    ]
    assert 50 <= min(scales)[0] < 60
    assert 140 < max(scales)[0] <= 150


def test_an_image_moves_exactly_as_its_labels():
    image = pixels(1, 30, 17)
    sample = augment(image, generator(3), PLAIN)
    for channel in range(3):
        assert np.array_equal(sample.image[..., channel], apply_to_labels(image[..., channel], sample.geometry, fill=0))
    assert sample.image.dtype == np.uint8
    assert sample.image.flags.c_contiguous


def test_the_same_key_gives_the_same_crop_and_another_key_another():
    image = pixels(2, 60, 50)
    chosen = Augmentation(crop=(32, 32), long_side=(40, 80))
    first, again, other = (augment(image, generator(1, "id", epoch), chosen) for epoch in (0, 0, 1))
    assert np.array_equal(first.image, again.image)
    assert first.geometry == again.geometry
    assert first.geometry != other.geometry


def test_jitter_strength_does_not_change_the_geometry():
    image = pixels(2, 60, 50)
    plain, coloured = (
        augment(image, generator(1), Augmentation(crop=(32, 32), jitter=jitter))
        for jitter in ((0,) * 4, (0.3, 0.3, 0.3, 0.1))
    )
    assert plain.geometry == coloured.geometry
    assert not np.array_equal(plain.image, coloured.image)


def test_padding_is_exactly_zero_after_normalisation():
    samples = [augment(pixels(k, 14, 15 + k), generator(k), PLAIN) for k in range(4)]
    images = torch.stack([torch.from_numpy(sample.image).permute(2, 0, 1) for sample in samples]).float() / 255
    normalised = (images - 0.45) / 0.22
    found = zero_padding(normalised, torch.tensor([sample.geometry.valid for sample in samples]))
    for k, sample in enumerate(samples):
        inside = apply_to_labels(np.ones(sample.geometry.source, np.uint8), sample.geometry, fill=0).astype(bool)
        assert (found[k][:, ~inside] == 0).all()
        assert (~inside).any()
        assert torch.equal(found[k][:, inside], normalised[k][:, inside])


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_each_jitter_step_is_torchvisions(step):
    torchvision_ready()
    from torchvision.transforms import functional

    change = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    image = np.asarray(Image.fromarray(pixels(4, 8, 8)).resize((40, 30)))
    strengths = [0.0] * 4
    strengths[step] = 0.4
    rng = generator(9, step)
    draws = [rng.uniform(1 - s, 1 + s) for s in strengths[:3]] + [rng.uniform(-strengths[3], strengths[3])]
    expected = np.asarray(change[step](Image.fromarray(image), draws[step]))
    found = jitter_colours(image, generator(9, step), tuple(strengths))
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, image)


def test_no_jitter_leaves_every_value_as_it_is():
    image = pixels(5)
    assert np.array_equal(jitter_colours(image, generator(0), (0, 0, 0, 0)), image)


def test_jitter_factors_fill_their_ranges():
    grey = np.full((4, 4, 3), 100, np.uint8)
    values = [int(jitter_colours(grey, generator(0, k), (0.3, 0, 0, 0)).mean()) for k in range(200)]
    assert 69 <= min(values) < 75
    assert 125 < max(values) <= 130


def test_maps_of_the_same_size_move_exactly_as_labels():
    maps = np.random.default_rng(0).random((3, 30, 17)).astype(np.float32)
    for flip in (False, True):
        geometry = Geometry((30, 17), (30, 17), flip, (4, -2), (24, 20))
        found = apply_to_maps(maps, geometry, fill=-1.0)
        assert found.dtype == np.float32
        for k in range(3):
            assert np.array_equal(found[k], apply_to_labels(maps[k], geometry, fill=-1))


def test_resized_maps_keep_a_linear_ramp_away_from_the_edges():
    ramp = np.broadcast_to((np.arange(20) + 0.5) / 20, (1, 10, 20))
    geometry = Geometry((10, 20), (20, 40), True, (0, 0), (20, 40))
    expected = (np.arange(40)[::-1] + 0.5) / 40
    assert np.abs(apply_to_maps(ramp, geometry)[0, 10, 2:-2] - expected[2:-2]).max() < 1e-6


def test_labels_of_another_size_than_the_image_are_a_programming_error():
    geometry = Geometry((30, 17), (30, 17), False, (0, 0), (5, 5))
    with pytest.raises(ValueError, match="needed that of the image"):
        apply_to_labels(np.zeros((17, 30), np.uint8), geometry)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 5), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_reduced_labels_are_the_centre_or_the_majority_of_each_block(height, width, stride, seed):
    labels = np.random.default_rng(seed).choice(np.array([0, 1, 1, 1, 255], np.uint8), (height, width))
    centre, block = (reduce_labels(labels, stride, block=flag) for flag in (False, True))
    assert centre.shape == block.shape == (-(-height // stride), -(-width // stride))
    for row in range(centre.shape[0]):
        for column in range(centre.shape[1]):
            y, x = row * stride + stride // 2, column * stride + stride // 2
            assert centre[row, column] == (labels[y, x] if y < height and x < width else 255)
            part = labels[row * stride : (row + 1) * stride, column * stride : (column + 1) * stride]
            winners = [value for value in (0, 1) if 2 * (part == value).sum() > stride * stride]
            assert block[row, column] == (winners[0] if winners else 255)


def test_resize_is_pillows_antialiased_bicubic_in_height_width_order():
    image = pixels(6, 20, 31)
    expected = np.asarray(Image.fromarray(image).resize((13, 9), Image.Resampling.BICUBIC))
    assert np.array_equal(resize(image, (9, 13)), expected)
    assert resize(image, (20, 31)) is image
