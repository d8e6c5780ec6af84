import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.datasets.builders import encoded, pixels, png
from xseg.datasets.decode import decode_image, decode_mask, image_size
from xseg.errors import BadInput

# EXIF orientation -> what a viewer does, from the standard's "row 0 is ..., column 0 is ..." table.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright_and_sized_so(kind, orientation):
    stored = pixels(1, 5, 9)
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(stored), kind, exif=oriented(orientation), **options)
    expected = UPRIGHT[orientation](stored)
    assert np.array_equal(decode_image(data, "x"), expected)
    assert image_size(data, "x") == expected.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_orientation_is_turned_upright(orientation):
    stored = np.repeat(np.repeat(pixels(2, 3, 4), 16, 0), 16, 1)
    data = encoded(Image.fromarray(stored), "JPEG", quality=95, subsampling=0, exif=oriented(orientation))
    expected = UPRIGHT[orientation](stored)
    found = decode_image(data, "x")
    assert found.shape == expected.shape == (*image_size(data, "x"), 3)
    assert np.abs(found.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_leave_the_image_alone(orientation):
    stored = pixels(1, 5, 9)
    data = encoded(Image.fromarray(stored), "PNG", exif=oriented(orientation))
    assert np.array_equal(decode_image(data, "x"), stored)


def test_grey_is_repeated_over_the_channels():
    grey = pixels(3)[..., 0]
    found = decode_image(png(grey), "x")
    assert np.array_equal(found, np.stack([grey] * 3, -1))
    assert found.flags.writeable
    assert found.flags.c_contiguous


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_to_eight(kind):
    grey = np.array([[0, 128, 129, 257], [32896, 65535, 40000, 1]], np.uint16)
    expected = np.floor(grey.astype(float) * 255 / 65535 + 0.5)
    assert np.array_equal(decode_image(encoded(Image.fromarray(grey), kind), "x")[..., 1], expected)


def test_transparency_lies_on_white_whatever_the_mode():
    colours = pixels(4)
    alpha = np.random.default_rng(0).integers(0, 256, colours.shape[:2], np.uint8)
    share = alpha[..., None] / 255
    found = decode_image(png(np.dstack([colours, alpha])), "x")
    assert np.abs(found - (colours * share + 255 * (1 - share))).max() <= 1
    grey = decode_image(png(np.dstack([colours[..., 0], alpha])), "x")
    assert np.abs(grey[..., 0] - (colours[..., 0] * share[..., 0] + 255 * (1 - share[..., 0]))).max() <= 1


def test_palettes_give_their_colours_and_a_transparent_entry_gives_white():
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    image.putdata([0, 1, 2, 1])
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert decode_image(encoded(image, "PNG"), "x").tolist()[0] == [[10, 20, 30], [40, 50, 60]]
    assert decode_image(encoded(image, "PNG", transparency=1), "x").tolist()[0] == [[10, 20, 30], [255, 255, 255]]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_gives_the_colour_of_its_inks_also_inverted_as_adobe_stores_it(kind):
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[...] = (200, 30, 60, 40)
    data = encoded(Image.merge("CMYK", [Image.fromarray(inks[..., k]) for k in range(4)]), kind)
    expected = [(255 - ink) * (255 - 40) / 255 for ink in (200, 30, 60)]
    assert np.abs(decode_image(data, "x")[8, 8] - np.array(expected)).max() <= 6


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.fromarray(np.full((4, 6, 3), value, np.uint8)) for value in (50, 200)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.abs(decode_image(data, "x").astype(int) - 50).max() <= 3, kind


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1)])
def test_any_size_and_aspect_is_read(shape):
    stored = pixels(5, *shape)
    assert np.array_equal(decode_image(png(stored), "x"), stored)
    assert image_size(png(stored), "x") == shape


def test_floating_point_pixels_are_refused_by_name():
    data = encoded(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF")
    with pytest.raises(BadInput, match=r"a/b\.tif: floating-point"):
        decode_image(data, "a/b.tif")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.8])
def test_a_file_cut_short_is_bad_input_that_names_it(kind, share):
    data = encoded(Image.fromarray(pixels(6, 80, 90)), kind)
    with pytest.raises(BadInput, match=r"photo\.x") as caught:
        decode_image(data[: int(len(data) * share)], "photo.x")
    assert caught.value.hint


def test_bytes_that_are_no_image_are_bad_input():
    for data in (b"", b"hello", bytes(1000), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
        with pytest.raises(BadInput, match="odd"):
            decode_image(data, "odd")
        with pytest.raises(BadInput, match="odd"):
            image_size(data, "odd")


def test_a_flipped_byte_in_a_png_is_noticed():
    data = bytearray(png(pixels(7, 40, 40)))
    data[len(data) // 2] ^= 1
    with pytest.raises(BadInput, match="corrupt"):
        decode_image(bytes(data), "x.png")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(width: int, height: int, depth: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("side", [12_000, 60_000])
def test_a_small_file_that_claims_enormous_dimensions_is_refused_before_decoding(side):
    data = raw_png(side, side, 8, bytes(100))
    for reads in (decode_image, decode_mask, image_size):
        with pytest.raises(BadInput, match="pixels"):
            reads(data, "bomb.png")


def test_palette_masks_keep_their_indices_not_their_colours():
    indices = np.array([[0, 3, 255], [1, 2, 20]], np.uint8)
    image = Image.new("P", (3, 2))
    image.putdata(indices.ravel())
    image.putpalette([7] * 768)  # every colour alike: going through colours would lose everything
    assert np.array_equal(decode_mask(encoded(image, "PNG"), "x"), indices)
    assert np.array_equal(decode_mask(encoded(image, "PNG", transparency=0), "x"), indices)


def test_grey_and_bilevel_masks_are_indices():
    indices = np.array([[0, 3, 255], [1, 2, 20]], np.uint8)
    assert np.array_equal(decode_mask(png(indices), "x"), indices)
    assert decode_mask(encoded(Image.fromarray(indices > 2), "PNG"), "x").tolist() == [[0, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(("depth", "packed"), [(1, b"\x40"), (2, b"\x1b"), (4, b"\x05\xaf")])
def test_masks_of_few_bits_are_not_stretched(depth, packed):
    width = 8 * len(packed) // depth
    bits = "".join(f"{byte:08b}" for byte in packed)
    expected = [int(bits[k * depth : (k + 1) * depth], 2) for k in range(width)]
    assert decode_mask(raw_png(width, 1, depth, b"\0" + packed), "x").tolist() == [expected]


def test_sixteen_bit_masks_stay_sixteen_bit():
    indices = np.array([[0, 300, 65535]], np.uint16)
    found = decode_mask(png(indices), "x")
    assert found.dtype == np.uint16
    assert np.array_equal(found, indices)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_masks_of_colours_or_lossy_masks_are_refused_with_a_hint(kind):
    image = Image.fromarray(pixels(8) if kind == "PNG" else pixels(8)[..., 0])
    with pytest.raises(BadInput, match=r"m\.x") as caught:
        decode_mask(encoded(image, kind), "m.x")
    assert "id" in caught.value.hint or "PNG" in caught.value.hint


def test_masks_are_turned_like_images():
    indices = np.arange(15, dtype=np.uint8).reshape(3, 5)
    data = encoded(Image.fromarray(indices), "PNG", exif=oriented(6))
    assert np.array_equal(decode_mask(data, "x"), UPRIGHT[6](indices))
