import errno
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from xseg.errors import BadInput, CannotCreate, InputMissing, OutputFailed
from xseg.exchange.png import decode_mask, encode_mask, read_mask_png, write_mask_png, write_whole
from xseg.pictures.palette import palette

shapes = st.tuples(st.integers(1, 20), st.integers(1, 20))
MASK = np.arange(256, dtype=np.uint8).reshape(8, 32)


@given(st.one_of(hnp.arrays(np.uint8, shapes), hnp.arrays(np.uint16, shapes)))
def test_a_mask_comes_back_with_identical_indices(mask):
    back = decode_mask(encode_mask(mask), "m")
    assert back.dtype == mask.dtype
    assert np.array_equal(back, mask)


def test_other_programs_see_a_palette_image_in_voc_colours():
    with Image.open(io.BytesIO(encode_mask(MASK))) as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), MASK)
        assert np.array_equal(np.asarray(picture.convert("RGB")).reshape(-1, 3), palette(256))


def test_other_programs_see_a_sixteen_bit_image_above_254_classes():
    mask = np.array([[0, 300, 65535]], np.uint16)
    with Image.open(io.BytesIO(encode_mask(mask))) as picture:
        assert picture.mode == "I;16"
        assert np.array_equal(np.asarray(picture), mask)


def test_a_transposed_view_is_written_as_it_looks():
    assert np.array_equal(decode_mask(encode_mask(MASK.T[::-1]), "m"), MASK.T[::-1])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palettes_of_fewer_bits_are_read_as_indices(bits):
    picture = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("L")
    picture.putpalette(palette(2).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", bits=bits)
    assert decode_mask(buffer.getvalue(), "m").tolist() == [[0, 1], [1, 0]]


def png(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_colour_images_and_broken_files_are_refused_by_name():
    with pytest.raises(BadInput, match=r"m\.png is a colour image \(RGB\)"):
        decode_mask(png(Image.new("RGB", (3, 3))), "m.png")
    whole = encode_mask(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    for data in (b"", b"no image", whole[: len(whole) // 2], whole[:200] + b"\xff\x00" + whole[202:]):
        with pytest.raises(BadInput, match=r"m\.png"):
            decode_mask(data, "m.png")


def test_a_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for side in (12, 40):
        with pytest.raises(BadInput, match="too large"):
            decode_mask(encode_mask(np.zeros((side, side), np.uint8)), "m.png")


@pytest.mark.parametrize("bad", [np.zeros((2, 2), np.int64), np.zeros((0, 2), np.uint8), np.zeros((1, 2, 2), np.uint8)])
def test_arrays_that_are_no_masks_are_refused(bad):
    with pytest.raises(ValueError, match="mask has"):
        encode_mask(bad)


def test_writing_makes_folders_replaces_whole_files_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "a" / "b" / "m.png"
    write_mask_png(path, MASK)
    write_mask_png(path, MASK[::-1])
    assert np.array_equal(read_mask_png(path), MASK[::-1])
    assert [entry.name for entry in path.parent.iterdir()] == ["m.png"]
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "m.png"
    write_mask_png(path, MASK)

    def full(self, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputFailed, match="No space left"):
        write_mask_png(path, MASK[::-1])
    assert np.array_equal(read_mask_png(path), MASK)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.png"]


def test_a_folder_in_the_way_cannot_be_created(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CannotCreate, match="cannot be created"):
        write_whole(tmp_path / "file" / "m.png", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CannotCreate, match="folder"):
        write_whole(tmp_path / "folder", b"x")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_a_mask_that_is_not_there_or_is_a_folder_is_told_apart(tmp_path):
    with pytest.raises(InputMissing, match="is not there"):
        read_mask_png(tmp_path / "none.png")
    with pytest.raises(BadInput, match="cannot be read"):
        read_mask_png(tmp_path)
