"""A MATLAB 7.3 file of images and masks, as ImageNet-Segmentation is handed out."""

import h5py
import numpy as np

TITLE = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan 01 00:00:00 2018 HDF5 schema 1.00 ."


def picture(seed, height=12, width=16):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def mask(seed, height=12, width=16):
    found = (np.random.default_rng([seed, 1]).random((height, width)) < 0.4).astype(np.uint8)
    found[height // 3 : height // 2, width // 3 : width // 2] = 1
    return found


def sizes(count):
    return [(12 + k, 16 + 2 * k) for k in range(count)]


def write_mat(path, count=3, *, pairs=None, cells=True, change=None, title=TITLE, **options):
    """Write `pairs` of (image (H,W,3), mask (H,W)), drawn ones if not given; `change` may spoil the open file."""
    pairs = pairs or [(picture(k, *size), mask(k, *size)) for k, size in enumerate(sizes(count))]
    with h5py.File(path, "w", userblock_size=512) as file:
        references = file.create_group("#refs#")
        value = file.create_group("value")
        listed = {"img": [], "gt": []}
        for k, (image, truth) in enumerate(pairs):
            pixels = references.create_dataset(f"i{k}", data=image.transpose(2, 1, 0), compression=3, **options)
            array = references.create_dataset(f"g{k}", data=truth.T, compression=3)
            if cells:
                cell = references.create_dataset(f"c{k}", (1, 1), h5py.ref_dtype)
                cell[0, 0] = array.ref
                array = cell
            listed["img"].append(pixels.ref)
            listed["gt"].append(array.ref)
        for name, found in listed.items():
            dataset = value.create_dataset(name, (len(found), 1), h5py.ref_dtype)
            dataset[:, 0] = found
        if change:
            change(file)
    with path.open("r+b") as file:
        file.write(title.ljust(116) + b"\0" * 8 + b"\0\x02IM")
    return path
