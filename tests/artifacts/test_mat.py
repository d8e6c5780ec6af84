import os

import h5py
import numpy as np
import pytest

from tests.artifacts.build_mat import mask, picture, sizes, write_mat
from xseg.artifacts.mat import SegmentationFile
from xseg.errors import BadInput


@pytest.mark.parametrize("cells", [True, False])
def test_images_and_masks_come_out_as_they_went_in(tmp_path, cells):
    file = SegmentationFile(write_mat(tmp_path / "x.mat", 3, cells=cells))
    assert len(file) == 3
    for k, size in enumerate(sizes(3)):
        assert np.array_equal(file.image(k), picture(k, *size))
        assert np.array_equal(file.mask(k), mask(k, *size))
        assert file.image(k).dtype == file.mask(k).dtype == np.uint8
    file.close()


def test_negative_and_255_mean_unknown(tmp_path):
    truth = np.array([[0, 1, -1], [1, 255, 0]], np.int16)
    file = SegmentationFile(write_mat(tmp_path / "x.mat", pairs=[(picture(0, 2, 3), truth)]))
    assert file.mask(0).tolist() == [[0, 1, 255], [1, 255, 0]]
    logical = write_mat(tmp_path / "b.mat", pairs=[(picture(0, 2, 3), truth > 0)])
    assert SegmentationFile(logical).mask(0).tolist() == [[0, 1, 0], [1, 1, 0]]


def external_link(file):
    del file["value/img"]
    file["value/img"] = h5py.ExternalLink("other.h5", "/value/img")


def soft_link(file):
    file["elsewhere"] = file["value"]
    del file["value"]
    file["value"] = h5py.SoftLink("/elsewhere")


def fewer_masks(file):
    del file["value/gt"]
    file["value"].create_dataset("gt", data=np.array([[file["#refs#/c0"].ref]], h5py.ref_dtype))


def no_images(file):
    for name in ("img", "gt"):
        del file[f"value/{name}"]
        file["value"].create_dataset(name, (0, 1), h5py.ref_dtype)


def numbers_for_references(file):
    del file["value/img"]
    file["value/img"] = np.arange(3)


def virtual_references(file):
    del file["value/img"]
    layout = h5py.VirtualLayout((3, 1), h5py.ref_dtype)
    layout[:] = h5py.VirtualSource("other.h5", "img", (3, 1), h5py.ref_dtype)
    file["value"].create_virtual_dataset("img", layout)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (external_link, "has no /value/img of its own"),
        (soft_link, "has no /value/img of its own"),
        (fewer_masks, "3 images and 1 masks"),
        (no_images, "/value/img has the shape"),
        (numbers_for_references, "/value/img is no list of references"),
        (virtual_references, "/value/img: it is a virtual dataset"),
        (lambda file: file.pop("value"), "has no /value/img"),
    ],
)
def test_a_file_of_another_form_is_refused_when_it_is_opened(tmp_path, change, told):
    with pytest.raises(BadInput, match=told):
        SegmentationFile(write_mat(tmp_path / "x.mat", change=change))


def pointing_to(file, made):
    file["value/img"][0, 0] = made.ref


def to_a_group(file):
    pointing_to(file, file["value"])


def to_nothing(file):
    file["value/img"][0, 0] = h5py.Reference()


def to_external_bytes(file):
    made = file.create_dataset("out", (3, 4, 5), "u1", external=[("/etc/hostname", 0, 60)])
    pointing_to(file, made)


def to_a_virtual_one(file):
    layout = h5py.VirtualLayout((3, 4, 5), "u1")
    layout[:] = h5py.VirtualSource("other.h5", "x", (3, 4, 5))
    pointing_to(file, file.create_virtual_dataset("out", layout))


def to_more_than_there_is(file):
    pointing_to(file, file.create_dataset("out", (3, 1 << 20, 1 << 20), "u1", chunks=(3, 64, 64), compression=1))


def to_too_many_pixels(file):
    made = file.create_dataset("out", (3, 1 << 15, 1 << 14), "u1", chunks=(3, 1 << 8, 1 << 8), compression=1)
    made[:, :256, :256] = np.random.default_rng(0).integers(0, 256, (3, 256, 256), np.uint8)
    pointing_to(file, made)


def to_a_cycle(file):
    cell = file.create_dataset("cycle", (1, 1), h5py.ref_dtype)
    cell[0, 0] = cell.ref
    pointing_to(file, cell)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (to_a_group, "image 0 is no array"),
        (to_nothing, "image 0 cannot be read"),
        (to_external_bytes, "image 0: its values lie in another file"),
        (to_a_virtual_one, "image 0: it is a virtual dataset"),
        (to_more_than_there_is, "image 0: declares"),
        (to_too_many_pixels, "image 0"),
        (to_a_cycle, "image 0: dtype object"),
        (lambda file: pointing_to(file, file.create_dataset("grey", data=np.zeros((4, 5), "u1"))), "needed .3, width"),
        (lambda file: pointing_to(file, file.create_dataset("f", data=np.zeros((3, 4, 5)))), "float64, needed"),
    ],
)
def test_an_image_that_is_none_is_refused_when_it_is_read_and_the_others_are_fine(tmp_path, change, told):
    file = SegmentationFile(write_mat(tmp_path / "x.mat", change=change))
    with pytest.raises(BadInput, match=told):
        file.image(0)
    assert np.array_equal(file.image(1), picture(1, *sizes(2)[1]))


@pytest.mark.parametrize(
    ("truth", "told"),
    [
        (np.full((2, 3), 2, np.uint8), "mask 0 holds 2, needed 0 and 1"),
        (np.zeros((2, 3)), "float64, needed"),
        (np.zeros((2, 3, 4), np.uint8), "needed .width, height"),
    ],
)
def test_a_mask_of_other_numbers_is_refused(tmp_path, truth, told):
    file = SegmentationFile(write_mat(tmp_path / "x.mat", pairs=[(picture(0, 2, 3), truth)]))
    with pytest.raises(BadInput, match=told):
        file.mask(0)


def test_what_is_no_matlab_file_is_refused_before_hdf5_sees_it(tmp_path):
    old = tmp_path / "old.mat"
    old.write_bytes(b"MATLAB 5.0 MAT-file, Platform: PCWIN" + bytes(600))
    with pytest.raises(BadInput, match=r"but MATLAB 5.0 MAT-file"):
        SegmentationFile(old)
    plain = tmp_path / "plain.mat"
    with h5py.File(plain, "w") as file:
        file["value"] = 1
    with pytest.raises(BadInput, match="but something else"):
        SegmentationFile(plain)
    whole = write_mat(tmp_path / "x.mat").read_bytes()
    (tmp_path / "short.mat").write_bytes(whole[:300])
    with pytest.raises(BadInput, match=r"short.mat: cut off after 300 bytes"):
        SegmentationFile(tmp_path / "short.mat")
    (tmp_path / "cut.mat").write_bytes(whole[:1000])
    with pytest.raises(BadInput, match="unreadable HDF5"):
        SegmentationFile(tmp_path / "cut.mat")
    os.mkfifo(tmp_path / "pipe.mat")
    with pytest.raises(BadInput, match="not a regular file"):
        SegmentationFile(tmp_path / "pipe.mat")
    with pytest.raises(BadInput, match="cannot be read"):
        SegmentationFile(tmp_path / "none.mat")


def test_damage_is_told_in_one_sentence_or_read_as_something(tmp_path):
    whole = write_mat(tmp_path / "x.mat").read_bytes()
    random = np.random.default_rng(0)
    damaged = tmp_path / "damaged.mat"
    for _ in range(60):
        changed = bytearray(whole)
        for place in random.integers(512, len(whole), 20):
            changed[place] = random.integers(256)
        damaged.write_bytes(changed)
        told = []
        try:
            file = SegmentationFile(damaged)
            for k in range(len(file)):
                file.image(k)
                file.mask(k)
        except BadInput as error:
            told.append(str(error))
        assert all(len(text.splitlines()) == 1 for text in told)
