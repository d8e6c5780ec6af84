import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.cli.read import records
from tests.exchange.test_run_lengths import plainly_unpacked
from xseg.artifacts.decode import Part
from xseg.artifacts.encode import encode
from xseg.artifacts.header import WorkList
from xseg.exchange.run_lengths import filled


def exported(directory):
    return {str(path.relative_to(directory).with_suffix("")): path for path in sorted(directory.rglob("*.png"))}


def renamed(path, target, folder):
    """The same artifact with a folder in front of every id."""
    with Part(path, str(path)) as part, target.open("wb") as file:
        renamed_records = [replace(r, id=f"{folder}/{r.id}") for r in part.records()]
        work = WorkList.of(record.id for record in renamed_records)
        encode(file, replace(part.header, work=work), renamed_records, [])
    return target


@pytest.mark.parametrize("name", ["masks", "labels"])
def test_every_image_becomes_a_palette_png_of_its_class_ids(chain, run, tmp_path, name):
    ended = run("export", getattr(chain, name), "-o", tmp_path / "png")
    assert ended.lines == [str(tmp_path / "png")]
    stored = records(getattr(chain, name))
    assert set(exported(tmp_path / "png")) == {record.id for record in stored}
    for record in stored:
        with Image.open(tmp_path / "png" / f"{record.id}.png") as picture:
            assert picture.mode == "P"
            np.testing.assert_array_equal(np.asarray(picture), record.arrays[name])
            assert picture.getpalette()[3:6] == [128, 0, 0]


def test_heatmaps_with_background_become_their_strongest_class(chain, run, tmp_path):
    run("export", chain.walk, "-o", tmp_path / "png")
    for record in records(chain.walk):
        expected = record.arrays["maps/class_id"][np.argmax(record.arrays["maps"], axis=0)]
        with Image.open(tmp_path / "png" / f"{record.id}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), expected)


def test_heatmaps_without_background_need_a_threshold(chain, run, tmp_path):
    refused = run("export", chain.cam, "-o", tmp_path / "png", status=2)
    assert "--threshold" in refused.stderr
    assert not (tmp_path / "png").exists()
    run("export", chain.cam, "--threshold", 0.3, "-o", tmp_path / "png")
    for record in records(chain.cam):
        maps, ids = record.arrays["maps"].astype(np.float32), record.arrays["maps/class_id"]
        expected = np.zeros(record.size, np.uint8)
        if len(ids):
            expected = np.where(maps.max(0) > np.float32(0.3), ids[maps.argmax(0)], 0)
        with Image.open(tmp_path / "png" / f"{record.id}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), expected)


def test_slashes_in_ids_make_subfolders(chain, run, tmp_path):
    inside = renamed(chain.masks, tmp_path / "inside.h5", "one/two")
    run("export", inside, "-o", tmp_path / "png", "--json")
    names = exported(tmp_path / "png")
    assert set(names) == {f"one/two/{record.id}" for record in records(chain.masks)}


def test_exporting_again_is_no_error_but_another_file_in_the_way_is(chain, run, tmp_path):
    first = run("export", chain.masks, "-o", tmp_path / "png", "--json")
    assert first.json == {"path": str(tmp_path / "png"), "images": 24}
    run("export", chain.masks, "-o", tmp_path / "png")
    victim = next(iter(exported(tmp_path / "png").values()))
    victim.write_bytes(b"mine")
    refused = run("export", chain.masks, "-o", tmp_path / "png", status=73)
    assert str(victim) in refused.stderr
    assert victim.read_bytes() == b"mine"
    run("export", chain.masks, "-o", tmp_path / "png", "--overwrite")
    assert victim.read_bytes() != b"mine"


def test_export_needs_masks_and_a_directory(chain, run):
    assert "needs masks" in run("export", chain.cls, "-o", "out", status=65).stderr
    run("export", chain.masks, status=2)


def test_an_unwritable_place_is_told(chain, run, tmp_path):
    (tmp_path / "file").write_text("x")
    run("export", chain.masks, "-o", tmp_path / "file" / "png", status=73)


def loaded(path):
    return np.load(path, allow_pickle=True)


def test_arrays_come_back_by_import(chain, run, tmp_path):
    run("export", chain.cam, "--format", "npy", "-o", tmp_path / "npy")
    run("export", chain.cam, "--format", "psa", "-o", tmp_path / "psa")
    for form in ("npy", "psa"):
        run("import", tmp_path / form, chain.data, "--dtype", "float32", "-o", tmp_path / f"{form}.h5")
    for stored, whole, few in zip(*map(records, (chain.cam, tmp_path / "npy.h5", tmp_path / "psa.h5")), strict=True):
        ids, expected = stored.arrays["maps/class_id"], stored.arrays["maps"].astype(np.float32)
        assert np.array_equal(few.arrays["maps/class_id"], ids)
        np.testing.assert_allclose(few.arrays["maps"], expected, atol=1e-6)
        np.testing.assert_allclose(whole.arrays["maps"][ids - 1], expected, atol=1e-6)
        others = np.setdiff1d(whole.arrays["maps/class_id"], ids)
        assert not whole.arrays["maps"][others - 1].any()


def test_arrays_of_masks_hold_their_class_ids(chain, run, tmp_path):
    run("export", chain.masks, "--format", "npy", "-o", tmp_path / "npy")
    for record in records(chain.masks):
        np.testing.assert_array_equal(loaded(tmp_path / f"npy/{record.id}.npy"), record.arrays["masks"])


def test_each_class_gets_a_grey_picture(chain, run, tmp_path):
    run("export", chain.masks, "--format", "classes", "-o", tmp_path / "masks")
    run("export", chain.cam, "--format", "classes", "-o", tmp_path / "maps")
    with Part(chain.masks, str(chain.masks)) as part:
        classes = part.header.classes
    for mask, cam in zip(records(chain.masks), records(chain.cam), strict=True):
        present = np.setdiff1d(mask.arrays["masks"], [0, 255])
        pictures = exported(tmp_path / "masks" / mask.id) if present.size else {}
        assert set(pictures) == {classes[number - 1] for number in present}
        for number in present:
            with Image.open(pictures[classes[number - 1]]) as picture:
                np.testing.assert_array_equal(np.asarray(picture) == 255, mask.arrays["masks"] == number)
        for number, one in zip(cam.arrays["maps/class_id"], cam.arrays["maps"].astype(np.float32), strict=True):
            with Image.open(tmp_path / f"maps/{cam.id}/{classes[number - 1]}.png") as picture:
                np.testing.assert_array_equal(np.asarray(picture), np.rint(255 * one))


def test_coco_has_the_pixels_of_every_mask(chain, run, tmp_path):
    run("export", chain.masks, "--format", "coco", "-o", tmp_path / "coco")
    found = json.loads((tmp_path / "coco/annotations.json").read_text())
    stored = records(chain.masks)
    assert [image["file_name"] for image in found["images"]] == [record.path for record in stored]
    painted = {image["id"]: np.zeros((image["height"], image["width"]), int) for image in found["images"]}
    for one in found["annotations"]:
        shape = tuple(one["segmentation"]["size"])
        painted[one["image_id"]][filled(plainly_unpacked(one["segmentation"]["counts"]), shape)] = one["category_id"]
    for record, mask in zip(stored, painted.values(), strict=True):
        np.testing.assert_array_equal(mask, np.where(record.arrays["masks"] == 255, 0, record.arrays["masks"]))


@pytest.mark.parametrize(("name", "options", "reason"), [
    ("masks", ("--format", "psa"), "these are masks"),
    ("cam", ("--format", "npy", "--threshold", "0.2"), "--threshold: not used by --format npy"),
    ("cam", ("--format", "coco"), "heatmaps without a background"),
    ("cam", ("--format", "gif"), "--format gif"),
])  # fmt: skip
def test_what_a_format_does_not_have_is_refused(chain, run, tmp_path, name, options, reason):
    refused = run("export", getattr(chain, name), *options, "-o", tmp_path / "out", status=2)
    assert reason in refused.stderr
    assert not (tmp_path / "out").exists()
