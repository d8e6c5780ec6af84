from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.cli.read import records
from xseg.artifacts.decode import Part
from xseg.artifacts.encode import encode
from xseg.artifacts.header import WorkList


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
